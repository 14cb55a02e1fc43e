"""Correctness and speed of Spatial Sparse Attention; `python -m benchmarks.ssa --help`."""

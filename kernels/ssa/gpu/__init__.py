"""Triton kernels of Spatial Sparse Attention; need Triton to import."""

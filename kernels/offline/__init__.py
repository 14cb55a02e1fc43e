"""Compile the project's Triton kernels for GPUs that are not here, and watch what they need.

`python -m kernels.offline` prints the table; `--check` compares it with the committed one.
"""

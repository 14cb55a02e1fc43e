"""Sparse 3-D convolution: index plans, the plain definition, and the fast gather-GEMM."""

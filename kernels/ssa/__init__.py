"""Spatial Sparse Attention (Direct3D-S2, section 3.3): plan, definition, backends, one door."""

from kernels.ssa.attention import spatial_sparse_attention
from kernels.ssa.plan import SSAPlan, build_plan, sort_coords

__all__ = ["SSAPlan", "build_plan", "sort_coords", "spatial_sparse_attention"]

"""Spatial Sparse Attention (Direct3D-S2, section 3.3): plan, definition, backends, one door."""

from kernels.ssa.attention import spatial_sparse_attention
from kernels.ssa.ops import KEPT_OPS
from kernels.ssa.plan import SSAPlan, build_plan, sort_coords
from kernels.ssa.segment_mean import segment_mean

__all__ = [
    "KEPT_OPS",
    "SSAPlan",
    "build_plan",
    "segment_mean",
    "sort_coords",
    "spatial_sparse_attention",
]

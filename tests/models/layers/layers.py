"""Small attention layers and batches of tokens for the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.ssa import SSAPlan, build_plan
from tests.sparse.grids import features, random_grid
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

CHANNELS = 12
RELEASED = {"linear": 8, "residual": 4}  # compression and the cell it is released with


def layer(compression: str, seed: int = 0, **changes: Any) -> SpatialSparseAttention:
    """In float64, and no parameter is zero or one."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "heads": 4, "kv_heads": 2, "head_dim": 16, "top_k": 2, "cell": RELEASED[compression],
        "compression": compression,
    }  # fmt: skip
    module = SpatialSparseAttention(CHANNELS, **(sizes | changes)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def tokens(
    counts: list[int], resolution: int = 16, channels: int = CHANNELS, seed: int = 0
) -> SparseTensor:
    """counts[b] random voxels in sample b with features that want gradients."""
    return on_grid(random_grid(resolution, counts, seed), channels)


def on_grid(grid: VoxelGrid, channels: int = CHANNELS) -> SparseTensor:
    return SparseTensor(features(grid, channels).requires_grad_(), grid)


def plan_of(x: SparseTensor, module: SpatialSparseAttention, shift: int = 0) -> SSAPlan:
    grid = x.grid
    return build_plan(grid.coords, cell=module.cell, shift=shift, batch_size=grid.batch_size)


def gradients(out: Tensor, x: SparseTensor, module: torch.nn.Module) -> list[Tensor]:
    """Of a fixed weighted sum of `out`, to the features and all parameters."""
    weight = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    return [*torch.autograd.grad((out * weight).sum(), [x.feats, *module.parameters()])]

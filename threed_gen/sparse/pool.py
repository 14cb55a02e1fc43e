"""Between resolutions: mean over existing children, and copying to all eight children."""

from __future__ import annotations

from typing import Literal

import torch

from threed_gen.sparse.gather import gather_sum
from threed_gen.sparse.sparse_tensor import SparseTensor

# mean: over what exists. released: the sum over one more than what exists, as the official code of
# Direct3D-S2 has it (its scatter_reduce counts the zero that it begins with).
Pooling = Literal["mean", "released"]


def mean_pool(x: SparseTensor, pooling: Pooling = "mean") -> SparseTensor:
    """Each coarse cell gets the mean over its existing children, summed in fp32 or wider."""
    table = x.grid.pooled()
    wide = x.feats if x.feats.dtype == torch.float64 else x.feats.float()
    total = gather_sum(wide, table.children, table.parent, padded=True)  # [M, C]
    count = table.count if pooling == "mean" else table.count + 1
    return SparseTensor((total / count).to(x.feats.dtype), table.coarse)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Every voxel becomes its eight children, each with a copy of its features."""
    table = x.grid.subdivided()
    return SparseTensor(gather_sum(x.feats, table.parent, table.children), table.fine)

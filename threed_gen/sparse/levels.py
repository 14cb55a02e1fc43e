"""Between resolutions: which voxel is whose parent, for pooling and for subdivision.

Pooling goes to the occupied cells of half the resolution; subdivision gives every voxel all its
eight children. Both keep two tables, child to parent and parent to children, so that each
direction, and each backward pass, is a plain gather: no scatter, no atomics, the same bits every
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.voxel_order import MAX_RESOLUTION, canonical_key

if TYPE_CHECKING:
    from threed_gen.sparse.voxel_grid import VoxelGrid

CHILDREN = 8  # child c of a voxel sits at offset (c >> 2, c >> 1 & 1, c & 1)


@dataclass(frozen=True)
class Pooling:
    """A fine grid of N voxels seen from its coarse grid of M occupied cells."""

    coarse: VoxelGrid
    parent: Tensor  # int64 [N], row in the coarse grid
    children: Tensor  # int64 [M, 8], row in the fine grid, N where the child is absent
    count: Tensor  # float32 [M, 1], number of existing children


@dataclass(frozen=True)
class Subdivision:
    """A coarse grid of M voxels and the complete fine grid of its 8·M children."""

    fine: VoxelGrid
    parent: Tensor  # int64 [8·M], row in the coarse grid
    children: Tensor  # int64 [M, 8], row in the fine grid


def child_index(coords: Tensor) -> Tensor:
    """Which of its parent's eight children each voxel [N, 4] is. int64 [N]."""
    bit = (coords[:, 1:] & 1).long()
    return (bit[:, 0] << 2) | (bit[:, 1] << 1) | bit[:, 2]


def pool_grid(grid: VoxelGrid) -> Pooling:
    """The occupied cells of half the resolution (rounded up), and both tables."""
    halved = grid.coords.clone()
    halved[:, 1:] >>= 1
    _, parent, count = torch.unique(
        canonical_key(halved), return_inverse=True, return_counts=True
    )  # sorted, so the coarse rows come out in canonical order
    cells = len(count)
    children = torch.full((cells, CHILDREN), grid.num_voxels, device=grid.device)
    children[parent, child_index(grid.coords)] = torch.arange(grid.num_voxels, device=grid.device)
    first = children.amin(dim=1)  # any existing child names its parent's coordinates
    coarse = type(grid).trusted(halved[first], (grid.resolution + 1) // 2, grid.batch_size)
    return Pooling(coarse, parent, children, count[:, None].float())


def subdivide_grid(grid: VoxelGrid) -> Subdivision:
    """All eight children of every voxel in canonical order, and both tables."""
    if grid.resolution * 2 > MAX_RESOLUTION:
        raise ValueError(f"VoxelGrid: cannot subdivide a grid of {grid.resolution}³ any further")
    cells, device = grid.num_voxels, grid.device
    child = torch.arange(CHILDREN, device=device, dtype=torch.int32)
    offset = torch.stack([child * 0, child >> 2, (child >> 1) & 1, child & 1], dim=1)
    doubled = grid.coords.clone()
    doubled[:, 1:] <<= 1
    coords = (doubled[:, None, :] + offset).reshape(-1, 4)  # [M·8, 4], parent by parent
    order = torch.argsort(canonical_key(coords))
    children = torch.empty_like(order)
    children[order] = torch.arange(len(order), device=device)
    fine = type(grid)(
        coords[order],
        grid.cu_seqlens * CHILDREN,
        grid.resolution * 2,
        grid.batch_size,
        [length * CHILDREN for length in grid.seqlens],
    )
    return Subdivision(fine, order // CHILDREN, children.view(cells, CHILDREN))

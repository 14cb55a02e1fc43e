"""Decode latent cells cube by cube, so that memory follows the cube and not the shape.

The decoder's transformer sees all cells at once; its convolutions reach 1 + ½ + ½ + ¼ + ¼ + ⅛ =
2.625 latent cells far, so a cube with a halo of 3 cells gives its inner voxels exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.voxel_order import BLOCK, BLOCK_VOXELS
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

HALO = 3  # latent cells


def chunked_tail(
    h: SparseTensor, tail: Callable[[SparseTensor], SparseTensor], chunk: int
) -> SparseTensor:
    """tail(h), computed in cubes of `chunk`³ latent cells. [M, C] -> [512·M, 1].

    tail turns features of latent cells into those of all their voxels, bricks in lexicographic
    order. The result has the rows of the whole decode.
    """
    if chunk < 1:
        raise ValueError(f"decode: chunk must be at least 1 latent cell, got {chunk}")
    grid, coords = h.grid, h.grid.coords
    out: Tensor | None = None
    rank = _lexicographic(grid).argsort()  # brick number of each latent cell
    cubes = coords.clone()
    cubes[:, 1:] //= chunk
    for sample, *cube in torch.unique(cubes, dim=0).tolist():
        low = torch.tensor(cube, device=coords.device) * chunk
        near = (coords[:, 1:] >= low - HALO) & (coords[:, 1:] < low + chunk + HALO)
        rows = torch.nonzero(near.all(1) & (coords[:, 0] == sample))[:, 0]
        part = VoxelGrid.trusted(coords[rows], grid.resolution, grid.batch_size)
        decoded = tail(SparseTensor(h.feats[rows], part)).feats.view(len(rows), BLOCK_VOXELS)
        order = _lexicographic(part)  # rows of `part` brick by brick, as in `decoded`
        inner = ((part.coords[order, 1:] >= low) & (part.coords[order, 1:] < low + chunk)).all(1)
        if out is None:
            out = decoded.new_empty(grid.num_voxels, BLOCK_VOXELS)
        out[rank[rows[order[inner]]]] = decoded[inner]
    if out is None:
        return tail(h)  # no cells at all
    return SparseTensor(out.view(-1, 1), _all_voxels(grid))


def _lexicographic(grid: VoxelGrid) -> Tensor:
    """Rows of the grid sorted by (batch, x, y, z). int64 [M]."""
    key = grid.coords[:, 0].long()
    for axis in (1, 2, 3):
        key = (key << 16) | grid.coords[:, axis]
    return torch.argsort(key)


def _all_voxels(grid: VoxelGrid) -> VoxelGrid:
    """The grid of all 512 voxels of each latent cell, without the levels between."""
    cells = grid.coords[_lexicographic(grid), 1:]
    bricks = list(torch.split(cells, grid.seqlens))
    return VoxelGrid.from_bricks(bricks, grid.resolution * BLOCK)[0]

"""Decode latent cells piece by piece, so that memory follows the piece and not the shape.

The decoder's transformer attends inside windows and is pointwise otherwise, so any set of whole
windows may go through a block alone. Its convolutions reach 1 + ½ + ½ + ¼ + ¼ + ⅛ = 2.625 latent
cells far, so a cube with a halo of 3 cells gives its inner voxels exactly. What grows with the
shape are the features of its latent cells (as many bytes as the decoded values) and the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, product

import torch
from torch import Tensor

from kernels.voxel_order import BLOCK, BLOCK_VOXELS, RASTER_TO_CANONICAL, window_key
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

HALO = 3  # latent cells
TOKENS = 2048  # latent cells that go through the transformer at once, or one window if it has more
BRICKS = 2048  # whose voxels' coordinates are written at once

Block = Callable[[SparseTensor], SparseTensor]


def row_slices(count: int) -> list[slice]:
    """All rows, `TOKENS` at a time."""
    return [slice(start, start + TOKENS) for start in range(0, count, TOKENS)]


def through_windows(h: SparseTensor, block: Block, size: int, shift: int) -> None:
    """h becomes block(h), in place, for a block that mixes nothing beyond windows of size³."""
    for rows in _whole_windows(h.grid, size, shift):
        part = VoxelGrid.trusted(h.grid.coords[rows], h.grid.resolution, h.grid.batch_size)
        h.feats[rows] = block(SparseTensor(h.feats[rows], part)).feats


def _whole_windows(grid: VoxelGrid, size: int, shift: int) -> list[Tensor]:
    """Rows in sets of whole windows, in canonical order; windows in the order of their keys."""
    keys, order = torch.sort(window_key(grid.coords, size, shift), stable=True)
    lengths = torch.unique_consecutive(keys, return_counts=True)[1].tolist()
    sizes = [0]
    for length in lengths:
        if sizes[-1] and sizes[-1] + length > TOKENS:
            sizes.append(0)
        sizes[-1] += length
    return [rows.sort().values for rows in order.split(sizes)]


def chunked_tail(h: SparseTensor, tail: Block, chunk: int) -> SparseTensor:
    """tail(h), computed in cubes of `chunk`³ latent cells. [M, C] -> [512·M, 1].

    tail turns features of latent cells into those of all their voxels, bricks in lexicographic
    order. The result has the rows of the whole decode. The time is that of the cells in all cubes
    with their halos, (1 + 6 / chunk)³ times M at most.
    """
    if chunk < 1:
        raise ValueError(f"decode: chunk must be at least 1 latent cell, got {chunk}")
    grid = h.grid
    if not grid.num_voxels:
        return tail(h)
    cubes = _cubes(grid, chunk)
    order = _lexicographic(grid.coords)
    brick = torch.empty_like(order)  # number of each latent cell among all bricks
    brick[order] = torch.arange(len(order), device=grid.device)
    out: Tensor | None = None
    for near, inner in zip(cubes.near, cubes.inner, strict=True):
        values = _decode_cube(h, tail, near, inner)
        if out is None:
            out = values.new_empty(grid.num_voxels, BLOCK_VOXELS)
        out[brick[near[inner]]] = values
    assert out is not None
    return SparseTensor(out.view(-1, 1), _all_voxels(grid, order))


def _decode_cube(h: SparseTensor, tail: Block, near: Tensor, inner: Tensor) -> Tensor:
    """Values of the cells near[inner] from those of all cells `near`. [I, 512]."""
    coords = h.grid.coords[near]
    coords[:, 0] = 0  # one sample
    starts = torch.tensor([0, len(near)], dtype=torch.int32, device=coords.device)
    part = VoxelGrid(coords, starts, h.grid.resolution, 1, [len(near)])
    decoded = tail(SparseTensor(h.feats[near], part)).feats.view(len(near), BLOCK_VOXELS)
    order = _lexicographic(coords)  # rows of `part` brick by brick, as in `decoded`
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return decoded[place[inner]]


@dataclass(frozen=True)
class _Cubes:
    """For each occupied cube: its latent cells and those around it, and which are its own."""

    near: tuple[Tensor, ...]  # int64 rows of the grid, ascending
    inner: tuple[Tensor, ...]  # int64 places in `near`


def _cubes(grid: VoxelGrid, chunk: int) -> _Cubes:
    """All pairs of a cube and a cell in or around it, found by sorting once."""
    xyz, sample = grid.coords[:, 1:].long(), grid.coords[:, 0].long()
    rows = torch.arange(grid.num_voxels, device=grid.device)
    first = (xyz - HALO) // chunk  # of the cubes along each axis that a cell is in or near
    last = (xyz + HALO) // chunk
    across = (grid.resolution + HALO) // chunk + 1 + HALO

    def key(cube: Tensor) -> Tensor:
        found = sample
        for axis in range(3):
            found = found * across + (cube[:, axis] + HALO)  # -HALO at the least
        return found

    own = key(xyz // chunk)
    occupied, number = torch.unique(own, return_inverse=True)
    count = len(occupied)
    pairs = []
    for step in product(range(-(-2 * HALO // chunk) + 1), repeat=3):
        cube = first + torch.tensor(step, device=grid.device)
        wanted = key(cube)
        at = torch.searchsorted(occupied, wanted).clamp_max(count - 1)
        valid = (cube <= last).all(1) & (occupied[at] == wanted)
        pairs.append((at * grid.num_voxels + rows)[valid])
    sorted_pairs = torch.cat(pairs).sort().values
    at, near = sorted_pairs // grid.num_voxels, sorted_pairs % grid.num_voxels
    sizes = torch.bincount(at, minlength=count).tolist()
    starts = torch.tensor([0, *accumulate(sizes)], device=grid.device)
    mine = torch.nonzero(number[near] == at)[:, 0]
    inner = mine - starts[at[mine]]
    own_sizes = torch.bincount(number, minlength=count).tolist()
    return _Cubes(near.split(sizes), inner.split(own_sizes))


def _lexicographic(coords: Tensor) -> Tensor:
    """Rows sorted by (batch, x, y, z). int64 [M]."""
    key = coords[:, 0].long()
    for axis in (1, 2, 3):
        key = (key << 16) | coords[:, axis]
    return torch.argsort(key)


def _all_voxels(grid: VoxelGrid, order: Tensor) -> VoxelGrid:
    """The grid of all 512 voxels of each latent cell, without the levels between."""
    raster = RASTER_TO_CANONICAL.to(grid.device)
    local = torch.stack([raster * 0, raster >> 6, raster >> 3 & 7, raster & 7], 1).int()  # [512, 4]
    scale = torch.tensor([1, BLOCK, BLOCK, BLOCK], dtype=torch.int32, device=grid.device)
    coords = grid.coords.new_empty(grid.num_voxels, BLOCK_VOXELS, 4)
    for start in range(0, grid.num_voxels, BRICKS):
        rows = order[start : start + BRICKS]
        torch.add((grid.coords[rows] * scale)[:, None], local, out=coords[start : start + BRICKS])
    return VoxelGrid(
        coords.view(-1, 4),
        grid.cu_seqlens * BLOCK_VOXELS,
        grid.resolution * BLOCK,
        grid.batch_size,
        [length * BLOCK_VOXELS for length in grid.seqlens],
    )

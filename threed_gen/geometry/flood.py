"""Flood fill of a whole grid without a dense array: which space is cut off from the outside?

Water enters from beyond the grid and spreads from voxel to voxel across their faces, wherever it
is let through. Inside each brick the connected pieces are labelled, the pieces of neighbouring
bricks that touch are joined, and so are the bricks that are not listed, each of which is one piece
of free (or of closed) space. What the water does not reach is enclosed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.sparse_sdf import BRICK

_CHUNK_BRICKS = 4096


def enclosed(free: VoxelSet) -> tuple[VoxelSet, int]:
    """Voxels of `free` that the outside does not reach, and how many separate pieces they form."""
    grid = free.grid
    labels, pieces = brick_pieces(free.bits)  # [B, 8, 8, 8], 0 where not free
    cells, cell_pieces = ndimage.label(free.cells & (grid.rows < 0))
    cells = np.where(cells > 0, cells + pieces, 0)
    total = pieces + cell_pieces + 1  # number 0 is the outside
    links = [_outermost(cells)]
    links += [_across(labels, cells, grid, axis, total) for axis in range(3)]
    joined = np.unique(np.concatenate(links), axis=0)
    graph = coo_matrix((np.ones(len(joined), np.int8), tuple(joined.T)), shape=(total, total))
    group = connected_components(graph, directed=False)[1]
    dry = group != group[0]
    dry[0] = False  # label 0 in the arrays means: not free
    found = VoxelSet(grid, dry[labels].reshape(free.bits.shape), dry[cells])
    return found, len(np.unique(group[dry]))


def brick_pieces(free: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number (from 1) of the 6-connected piece of every voxel inside its brick, [B, 8, 8, 8]."""
    within = np.zeros((3, 3, 3, 3), dtype=bool)
    within[1] = ndimage.generate_binary_structure(3, 1)
    labels = np.zeros((len(free), BRICK, BRICK, BRICK), dtype=np.int32)
    count = 0
    for start in range(0, len(free), _CHUNK_BRICKS):
        part = free[start : start + _CHUNK_BRICKS].reshape(-1, BRICK, BRICK, BRICK)
        found, here = ndimage.label(part, structure=within)
        labels[start : start + _CHUNK_BRICKS] = np.where(found > 0, found + count, 0)
        count += here
    return labels, count


def _outermost(cells: NDArray[np.int32]) -> NDArray[np.int64]:
    """Links between the outside and the bricks that are not listed, along the grid's border."""
    border = np.ones(cells.shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    touched = np.unique(cells[border])
    touched = touched[touched > 0].astype(np.int64)
    return np.stack([np.zeros_like(touched), touched], axis=1)


def _across(
    labels: NDArray[np.int32],
    cells: NDArray[np.int32],
    grid: BrickGrid,
    axis: int,
    total: int,
) -> NDArray[np.int64]:
    """Links [L, 2] between listed bricks and whatever lies next to them along an axis."""
    found = [np.zeros(0, np.int64)]
    first, last = np.moveaxis(labels, axis + 1, 1)[:, 0], np.moveaxis(labels, axis + 1, 1)[:, -1]
    for side, face in ((-1, first), (1, last)):
        step = np.zeros(3, dtype=np.int32)
        step[axis] = side
        beside = grid.bricks + step
        row = grid.find(beside)
        if side == 1:  # each pair of listed bricks once
            pair = row >= 0
            found.append(_keys(face[pair], first[row[pair]], total))
        alone = row < 0
        cell = tuple(np.clip(beside[alone], 0, grid.across - 1).T)
        other = np.where(row[alone] == -1, cells[cell], 0)  # beyond the grid: the outside
        closed = (row[alone] == -1) & (other == 0)
        faces = np.where(closed[:, None, None], 0, face[alone])
        found.append(_keys(faces, np.broadcast_to(other[:, None, None], faces.shape), total, True))
    keys = np.unique(np.concatenate(found))
    return np.stack([keys // total, keys % total], axis=1)


def _keys(
    a: NDArray[np.int32], b: NDArray[np.int32], total: int, outside: bool = False
) -> NDArray[np.int64]:
    """One number per pair of labels that touch; label 0 of `b` counts only if it is the outside."""
    touch = (a > 0) & ((b > 0) | outside)
    return np.unique(a[touch].astype(np.int64) * total + b[touch])

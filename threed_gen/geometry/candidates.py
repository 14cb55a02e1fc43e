"""Finds the bricks that may lie near a surface, from coarse cells down, without a dense array.

A cell of the grid is kept when its centre lies within half its diagonal plus the reach of the
surface (distance changes by at most the way walked, so nothing is lost), and is cut into eight. At
bricks of 8^3 the cutting stops.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.sparse_sdf import BRICK, BRICK_VOXELS, brick_keys

CHUNK_BRICKS = 4096  # about 2 million voxels, some 50 MB while they are measured
_COARSEST = 8  # cells along one side at which the search begins


def candidate_bricks(
    distance: TriangleDistance, resolution: int, reach: float
) -> NDArray[np.int32]:
    """Bricks that may hold a voxel nearer than `reach`, sorted, int32 [B, 3]."""
    across = resolution // BRICK
    size = 1  # of a cell, in bricks
    while across > _COARSEST * size:
        size *= 2
    axis = np.arange(-(-across // size), dtype=np.int32)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    while True:
        width = size * BRICK / resolution
        near = np.zeros(len(cells), dtype=bool)
        step = CHUNK_BRICKS * BRICK_VOXELS
        for start in range(0, len(cells), step):
            centres = (cells[start : start + step].astype(np.float64) + 0.5) * width
            far = 0.5 * np.sqrt(3.0) * width + reach
            near[start : start + step] = np.isfinite(distance.of_points(centres, far)[0])
        cells = cells[near]
        if size == 1:
            return cells[np.argsort(brick_keys(cells, resolution), kind="stable")]
        size //= 2
        children = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1)
        cells = (cells[:, None, :] * 2 + children.reshape(1, 8, 3)).reshape(-1, 3)
        cells = cells[(cells * size < across).all(axis=1)].astype(np.int32)


def union_of_bricks(
    first: NDArray[np.int32], second: NDArray[np.int32], resolution: int
) -> NDArray[np.int32]:
    """All bricks of two lists, sorted and each once."""
    both = np.concatenate([first, second])
    return both[np.unique(brick_keys(both, resolution), return_index=True)[1]]

"""Is a single point inside a closed surface? One upward ray, exact integers, no tolerance.

The same fixed-point grid and the same rule for ties as scanline.py, for points that are not voxel
centres. Used to find out whether a wall that a file holds twice lies inside a solid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.scanline import doubled_area, tie_excluded, to_fixed_point

_FINE_GRID = 1 << 20  # resolution whose fixed-point steps are used


def contains(corners: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points [N, 3] of the unit cube lie inside a closed surface [F, 3, 3], by parity."""
    triangles, _ = to_fixed_point(corners, _FINE_GRID)
    low, high = triangles[:, :, :2].min(axis=1), triangles[:, :, :2].max(axis=1)  # [F, 2]
    inside = np.zeros(len(points), dtype=bool)
    for row, point in enumerate(to_fixed_point(points, _FINE_GRID)[0]):
        near = ((low <= point[:2]) & (high >= point[:2])).all(axis=1)
        inside[row] = _crossings_below(triangles[near], point) % 2 == 1
    return inside


def _crossings_below(triangles: NDArray[np.int64], point: NDArray[np.int64]) -> int:
    """How many triangles [n, 3, 3] the ray straight down from a point [3] meets."""
    turn = np.sign(doubled_area(triangles[:, :, :2]))
    crossed = turn != 0
    height = np.zeros(len(triangles))
    for k in range(3):
        p, q = triangles[:, k], triangles[:, (k + 1) % 3]
        d = q - p
        side = d[:, 0] * (point[1] - p[:, 1]) - d[:, 1] * (point[0] - p[:, 0])
        crossed &= side * turn >= tie_excluded(d[:, 0] * turn, d[:, 1] * turn)
        opposite = triangles[:, (k + 2) % 3, 2] - point[2]
        height += side * opposite.astype(np.float64)
    return int(np.count_nonzero(crossed & (height * turn < 0)))

"""Is a single point inside a closed surface? One upward ray, exact integers, no tolerance.

The same fixed-point grid and the same rule for ties as scanline.py, for points that are not voxel
centres. Used to find out which shells of a file lie inside which others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.scanline import doubled_area, tie_excluded, to_fixed_point

_FINE_GRID = 1 << 20  # resolution whose fixed-point steps are used
_SAMPLES = 16  # faces of a surface whose middles are asked whether another one encloses it


class EnclosedVolume:
    """The space inside a closed surface in the unit cube."""

    def __init__(self, corners: NDArray[np.float64], orientable: bool) -> None:
        """`corners` float64 [F, 3, 3]; wound outwards if `orientable`, else parity decides."""
        self._triangles, _ = to_fixed_point(corners, _FINE_GRID)
        self._orientable = orientable
        self._low, self._high = self._triangles.min(axis=1), self._triangles.max(axis=1)  # [F, 3]
        self.low, self.high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))  # [3]

    def encloses(self, other: EnclosedVolume) -> bool:
        """True when the middles of (up to 16) faces of `other` all lie in here."""
        if (self.low > other.low).any() or (self.high < other.high).any():
            return False
        count = len(other._triangles)
        picked = np.linspace(0, count - 1, min(_SAMPLES, count)).astype(np.int64)
        return all(self._contains(p) for p in other._triangles[picked].sum(axis=1) // 3)

    def contains(self, point: NDArray[np.float64]) -> bool:
        """True when a point [3] of the unit cube lies inside."""
        return self._contains(to_fixed_point(point, _FINE_GRID)[0])

    def _contains(self, point: NDArray[np.int64]) -> bool:
        flat = point[:2]
        near = ((self._low[:, :2] <= flat) & (self._high[:, :2] >= flat)).all(axis=1)
        triangles = self._triangles[near]
        area = doubled_area(triangles[:, :, :2])
        turn = np.sign(area)
        crossed = turn != 0
        height = np.zeros(len(triangles))
        for k in range(3):
            p, q = triangles[:, k], triangles[:, (k + 1) % 3]
            d = q - p
            side = d[:, 0] * (point[1] - p[:, 1]) - d[:, 1] * (point[0] - p[:, 0])
            crossed &= side * turn >= tie_excluded(d[:, 0] * turn, d[:, 1] * turn)
            opposite = triangles[:, (k + 2) % 3, 2] - point[2]
            height += side * opposite.astype(np.float64)
        below = crossed & (height * turn < 0)
        if not self._orientable:
            return bool(np.count_nonzero(below) % 2)
        return bool(-turn[below].sum() >= 1)

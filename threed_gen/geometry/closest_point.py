"""The point of a triangle that is nearest to a given point, in NumPy, pair by pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def closest_points(
    points: NDArray[np.float64], corners: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Nearest point of each triangle [n, 3, 3] to its point [n, 3]; triangles may be degenerate."""
    best = np.full((len(points), 3), np.nan)
    best2 = np.full(len(points), np.inf)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    for start, end in ((a, b), (b, c), (c, a)):
        _take_nearer(points, _on_segments(points, start, end), best, best2)
    normal = np.cross(b - a, c - a)
    area2 = np.einsum("ij,ij->i", normal, normal)
    height = np.einsum("ij,ij->i", points - a, normal)
    foot = points - normal * (height / np.where(area2 > 0, area2, 1.0))[:, None]
    within = area2 > 0
    for start, end in ((a, b), (b, c), (c, a)):
        within &= np.einsum("ij,ij->i", np.cross(end - start, foot - start), normal) >= 0
    best[within] = foot[within]
    return best


def _on_segments(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    along = end - start
    length2 = np.einsum("ij,ij->i", along, along)
    share = np.einsum("ij,ij->i", points - start, along) / np.where(length2 > 0, length2, 1.0)
    return start + along * np.clip(share, 0.0, 1.0)[:, None]


def _take_nearer(
    points: NDArray[np.float64],
    other: NDArray[np.float64],
    best: NDArray[np.float64],
    best2: NDArray[np.float64],
) -> None:
    off = points - other
    distance2 = np.einsum("ij,ij->i", off, off)
    nearer = distance2 < best2
    best[nearer], best2[nearer] = other[nearer], distance2[nearer]

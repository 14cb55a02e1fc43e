"""Polygons, strips and fans become triangles.

A convex polygon becomes a fan from its first corner. A fan over a concave one would cover what
is outside the polygon, so those (few) are cut ear by ear.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST_CONCAVE = 2000  # corners; cutting ears takes the square of it, beyond it is a fan


def triangulate(
    sizes: NDArray[np.int64],
    corners: NDArray[np.int64],
    vertices: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Triangles [F, 3] of polygons in their order.

    `sizes` [P] counts the corners of each polygon, `corners` [sum(sizes)] are their vertex
    numbers, which must exist. Polygons with fewer than three corners vanish.
    """
    starts = np.cumsum(sizes) - sizes
    counts = np.maximum(sizes - 2, 0)
    if len(sizes) == 0 or counts.sum() == 0:
        return np.zeros((0, 3), dtype=np.int64)
    polygon = np.repeat(np.arange(len(sizes)), counts)
    first = starts[polygon]
    turn = np.arange(len(polygon)) - np.repeat(np.cumsum(counts) - counts, counts)
    faces = np.stack([corners[first], corners[first + turn + 1], corners[first + turn + 2]], axis=1)
    begin = np.cumsum(counts) - counts
    for p in _concave(sizes, starts, corners, vertices):
        ring = corners[starts[p] : starts[p] + sizes[p]]
        faces[begin[p] : begin[p] + counts[p]] = ring[_ears(vertices[ring])]
    return faces


def strip(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a strip: every second one turned round, so that all look to one side."""
    if len(corners) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    return faces


def fan(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a fan around its first corner."""
    if len(corners) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    centre = np.full(len(corners) - 2, corners[0])
    return np.stack([centre, corners[1:-1], corners[2:]], axis=1)


def _concave(
    sizes: NDArray[np.int64],
    starts: NDArray[np.int64],
    corners: NDArray[np.int64],
    vertices: NDArray[np.float64],
) -> list[int]:
    """Numbers of the polygons that turn both ways, judged against their mean normal."""
    found: list[int] = []
    for size in np.unique(sizes[sizes > 3]):
        if size > _LARGEST_CONCAVE:
            continue
        which = np.flatnonzero(sizes == size)
        rings = vertices[corners[starts[which, None] + np.arange(size)]]  # [P, size, 3]
        with np.errstate(invalid="ignore", over="ignore"):
            edges = np.roll(rings, -1, axis=1) - rings
            turns = np.cross(np.roll(edges, 1, axis=1), edges)  # at every corner
            normal = np.cross(rings - rings[:, :1], np.roll(rings, -1, axis=1) - rings[:, :1])
            normal = normal.sum(axis=1, keepdims=True)
            bend = (turns * normal).sum(axis=2)
            # Rounding lets the corners of a straight side bend a little.
            allowed = 1e-6 * np.abs(bend).max(axis=1, keepdims=True)
            found += which[(bend < -allowed).any(axis=1)].tolist()
    return found


def _ears(ring: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut a simple polygon [N, 3] into N - 2 triangles of corner numbers, ear by ear."""
    flat = _projected(ring)
    left = list(range(len(flat)))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        ear = next((k for k in range(len(left)) if _is_ear(flat, left, k)), 0)
        triangles.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        del left[ear]
    triangles.append((left[0], left[1], left[2]))
    return np.array(triangles, dtype=np.int64)


def _projected(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon in its own plane, counter-clockwise, float64 [N, 2]."""
    normal = np.cross(ring - ring[0], np.roll(ring, -1, axis=0) - ring[0]).sum(axis=0)
    axis = int(np.argmax(np.abs(normal)))
    u, v = (axis + 1) % 3, (axis + 2) % 3
    return ring[:, [u, v] if normal[axis] > 0 else [v, u]]


def _is_ear(flat: NDArray[np.float64], left: list[int], k: int) -> bool:
    before, here, after = left[k - 1], left[k], left[(k + 1) % len(left)]
    a, b, c = flat[before], flat[here], flat[after]
    if _turn(a, b, c) <= 0:
        return False
    others = flat[[i for i in left if i not in (before, here, after)]]
    inside = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
    corner = (others == a).all(1) | (others == b).all(1) | (others == c).all(1)
    return not bool((inside & ~corner).any())


def _turn(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Twice the signed area of the triangles a, b, c."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])

"""Winding numbers of a whole grid at the price of drawing the mesh once.

All voxels of a column (x, y) share one ray along z. So instead of asking every voxel whether it is
inside, every triangle is drawn into the x-y plane: each pixel it covers is one crossing of that
pixel's ray. The winding number of a voxel is the sum of the crossings below it. That is R^2 work,
never R^3, and millions of voxels are answered by one search in a sorted list.

It is exact. Vertices are rounded to a fixed grid (a few 1e-9 of the unit cube), and everything in
the plane is then decided in 64-bit integers, ties included: a ray through an edge or a vertex
counts as if it had been moved by (eps, eps^2), the same for all triangles ("simulation of
simplicity", Edelsbrunner and Muecke 1990). So the crossings of a closed surface cancel in every
column, always, whatever the shape of its triangles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FIXED_POINT_BITS = 28  # products of two differences then stay below 2^57
_CHUNK = 1 << 19  # rows, or pixels, that are expanded at a time


@dataclass(frozen=True)
class ColumnCrossings:
    """Where the rays of all columns cross a surface, ready to be asked for winding numbers."""

    resolution: int
    keys: NDArray[np.int64]  # [N] sorted (column, first voxel above the crossing)
    running: NDArray[np.int32]  # [N + 1] sum of the weights of all crossings before

    def winding(self, xyz: NDArray[np.integer]) -> NDArray[np.int32]:
        """Sum of the weights of the crossings below each voxel; xyz [..., 3] in the grid."""
        voxel = xyz.astype(np.int64)
        r = self.resolution
        key = (voxel[..., 0] * r + voxel[..., 1]) * (r + 1) + voxel[..., 2]
        # Columns before this one add nothing, because the crossings of a column cancel.
        return self.running[np.searchsorted(self.keys, key, side="right")]


def column_crossings(
    corners: NDArray[np.float64], weights: NDArray[np.integer] | None, resolution: int
) -> ColumnCrossings:
    """Crossings of triangles [F, 3, 3] in the unit cube with the rays of an R x R grid.

    A ray that meets the front of a face (wound counter-clockwise seen from there) adds the face's
    weight, one that meets the back takes it away. Without weights crossings are only counted, and
    `winding` is right modulo 2. ValueError when they do not cancel: the surface is not closed.
    """
    fixed, unit = to_fixed_point(corners, resolution)
    area = doubled_area(fixed[:, :, :2])
    drawn = area != 0
    fixed, area = fixed[drawn], area[drawn]
    if weights is None:
        weight = np.ones(len(area), np.int32)
    else:
        weight = (-np.sign(area) * weights[drawn]).astype(np.int32)
    clockwise = area < 0
    fixed[clockwise] = fixed[clockwise][:, ::-1]
    keys: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    values: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    for face, row, first, last in _spans(fixed, unit, resolution):
        for part in _chunks(last - first + 1):
            spread, column = _expand(first[part], last[part])
            pixel_face, pixel_row = face[part][spread], row[part][spread]
            above = _first_above(fixed[pixel_face], column, pixel_row, unit)
            above = np.clip(above, 0, resolution)
            keys.append((column * resolution + pixel_row) * (resolution + 1) + above)
            values.append(weight[pixel_face])
    key, value = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    running = np.concatenate([[0], np.cumsum(value, dtype=np.int64)]).astype(np.int32)
    column_ends = np.flatnonzero(np.diff(key // (resolution + 1), append=-1)) + 1
    if (running[column_ends] % 2 if weights is None else running[column_ends]).any():
        raise ValueError("crossings do not cancel: the surface is not closed")
    return ColumnCrossings(resolution, key, running)


def to_fixed_point(points: NDArray[np.float64], resolution: int) -> tuple[NDArray[np.int64], int]:
    """Unit-cube positions as integers, and the (even) number of integer steps per voxel."""
    unit = (1 << _FIXED_POINT_BITS) // resolution // 2 * 2
    return np.rint(points * float(resolution * unit)).astype(np.int64), unit


def doubled_area(flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """Twice the signed area of triangles in the plane, [F, 3, 2] -> [F]."""
    a, b, c = np.moveaxis(flat, 1, 0)
    ab, ac = b - a, c - a
    area: NDArray[np.int64] = ab[:, 0] * ac[:, 1] - ac[:, 0] * ab[:, 1]
    return area


def tie_excluded(dx: NDArray[np.int64], dy: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 where a point on the side (dx, dy) of a counter-clockwise triangle counts as in, else 1.

    The point is moved by (eps, eps^2), which changes the side's value by -dy * eps + dx * eps^2.
    """
    excluded: NDArray[np.int64] = 1 - ((dy < 0) | ((dy == 0) & (dx > 0))).astype(np.int64)
    return excluded


def _spans(
    fixed: NDArray[np.int64], unit: int, resolution: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Pixels covered in each row: chunks of (face, row, first column, last column)."""
    half = unit // 2
    low = np.maximum(-((half - fixed[:, :, 1].min(axis=1)) // unit), 0)
    high = np.minimum((fixed[:, :, 1].max(axis=1) - half) // unit, resolution - 1)
    rows = np.maximum(high - low + 1, 0)
    for part in _chunks(rows):
        spread, row = _expand(low[part], high[part])
        face = spread + part.start
        y = row * unit + half
        first = np.zeros(len(face), np.int64)
        last = np.full(len(face), resolution - 1, np.int64)
        for k in range(3):
            p, q = fixed[face, k, :2], fixed[face, (k + 1) % 3, :2]
            dx, dy = q[:, 0] - p[:, 0], q[:, 1] - p[:, 1]
            # In when dx * (y - py) - dy * (x - px) >= tie, at x = column * unit + half.
            rest = dx * (y - p[:, 1]) + dy * (p[:, 0] - half) - tie_excluded(dx, dy)
            step = dy * unit
            quotient = np.floor_divide(rest, np.where(step == 0, 1, step))
            ceiling = -np.floor_divide(-rest, np.where(step == 0, 1, step))
            last = np.where(dy > 0, np.minimum(last, quotient), last)
            first = np.where(dy < 0, np.maximum(first, ceiling), first)
            last = np.where((dy == 0) & (rest < 0), -1, last)
        covered = first <= last
        yield face[covered], row[covered], first[covered], last[covered]


def _first_above(
    triangle: NDArray[np.int64],
    column: NDArray[np.int64],
    row: NDArray[np.int64],
    unit: int,
) -> NDArray[np.int64]:
    """First voxel of each pixel's column whose centre lies above the crossing."""
    half = unit // 2
    x, y = column * unit + half, row * unit + half
    height = np.zeros(len(x))
    total = np.zeros(len(x))
    for k in range(3):
        p, q = triangle[:, (k + 1) % 3], triangle[:, (k + 2) % 3]
        share = (q[:, 0] - p[:, 0]) * (y - p[:, 1]) - (q[:, 1] - p[:, 1]) * (x - p[:, 0])
        height += share * triangle[:, k, 2].astype(np.float64)
        total += share
    above: NDArray[np.int64] = np.floor((height / total - half) / unit).astype(np.int64) + 1
    return above


def _chunks(sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Cut a list of items into slices whose sizes add up to about _CHUNK."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        yield slice(start, stop)
        start = stop


def _expand(
    first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every integer of every range [first, last], with the number of its range."""
    sizes = np.maximum(last - first + 1, 0)
    spread = np.repeat(np.arange(len(sizes)), sizes)
    begin = np.cumsum(sizes) - sizes
    value = np.arange(len(spread)) - begin[spread] + first[spread]
    return spread, value

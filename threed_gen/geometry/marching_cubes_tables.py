"""The 256 cases of marching cubes, derived instead of typed in.

Corners of a cell: number c sits at (c & 1, c >> 1 & 1, c >> 2 & 1). A case is the set of inside
corners, one bit each. On every face of the cell the surface leaves segments between the edges that
it crosses; where inside and outside corners alternate around a face, each inside corner is cut off
by itself. The rule looks at nothing but the face's own four signs, so both cells at a face draw the
same segments and the surface has no cracks. The segments of a cell close into loops, and loops are
cut into triangles along diagonals that never lie in a face of the cell; otherwise the neighbour
could use the same diagonal and four triangles would meet there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Edge = (lower corner, axis); its other end is corner + (1 << axis).
EDGES: tuple[tuple[int, int], ...] = tuple(
    (corner, axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1
)
_NUMBER = {frozenset((c, c | 1 << axis)): e for e, (c, axis) in enumerate(EDGES)}
# Corners around each face, counter-clockwise seen from outside the cell.
_FACES = (
    (0, 4, 6, 2),  # x = 0
    (1, 3, 7, 5),  # x = 1
    (0, 1, 5, 4),  # y = 0
    (2, 6, 7, 3),  # y = 1
    (0, 2, 3, 1),  # z = 0
    (4, 5, 7, 6),  # z = 1
)
_FACES_OF_EDGE = [
    {f for f, corners in enumerate(_FACES) if {c, c | 1 << axis} <= set(corners)}
    for c, axis in EDGES
]


@dataclass(frozen=True)
class CaseTable:
    """Triangles of every case, as cell edges, wound so that normals point outside."""

    counts: NDArray[np.int64]  # [256] number of triangles
    starts: NDArray[np.int64]  # [256] first row in `triangles`
    triangles: NDArray[np.int64]  # [T, 3] cell edges, numbered as in EDGES


@cache
def case_table() -> CaseTable:
    """The table, computed once (a few milliseconds)."""
    cases = [case_triangles(case) for case in range(256)]
    counts = np.array([len(triangles) for triangles in cases])
    rows = [triangle for triangles in cases for triangle in triangles]
    return CaseTable(counts, np.cumsum(counts) - counts, np.array(rows, dtype=np.int64))


def case_triangles(case: int) -> list[tuple[int, int, int]]:
    """Triangles of one case; each corner of a triangle is the crossing on a cell edge."""
    return [triangle for loop in _loops(case) for triangle in _triangulate(loop)]


def _loops(case: int) -> list[list[int]]:
    """Closed walks over the crossed edges, with the inside on a fixed hand."""
    following: dict[int, int] = {}
    for corners in _FACES:
        inside = [bool(case >> c & 1) for c in corners]
        for k in range(4):
            if inside[k] or not inside[(k + 1) % 4]:
                continue  # only where the walk around the face enters the inside
            leave = (k + 1) % 4
            while inside[(leave + 1) % 4]:
                leave = (leave + 1) % 4
            enter_edge = _NUMBER[frozenset((corners[k], corners[(k + 1) % 4]))]
            leave_edge = _NUMBER[frozenset((corners[leave], corners[(leave + 1) % 4]))]
            following[enter_edge] = leave_edge
    loops = []
    while following:
        edge, after = following.popitem()
        loop = [edge]
        while after != loop[0]:
            loop.append(after)
            after = following.pop(after)
        start = loop.index(min(loop))  # one fixed order, whatever the order of the faces
        loops.append(loop[start:] + loop[:start])
    return sorted(loops)


def _triangulate(loop: list[int]) -> list[tuple[int, int, int]]:
    triangles = _cut(tuple(loop))
    if triangles is None:
        raise AssertionError(f"loop {loop} has no triangulation without in-face diagonals")
    return triangles


def _cut(loop: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
    """Triangles over the polygon; the side from last to first is given, diagonals are chosen."""
    if len(loop) < 3:
        return []
    first, last = loop[0], loop[-1]
    for k in range(1, len(loop) - 1):
        if k > 1 and _in_one_face(first, loop[k]):
            continue
        if k < len(loop) - 2 and _in_one_face(loop[k], last):
            continue
        left, right = _cut(loop[: k + 1]), _cut(loop[k:])
        if left is not None and right is not None:
            return [(first, loop[k], last), *left, *right]
    return None


def _in_one_face(a: int, b: int) -> bool:
    return bool(_FACES_OF_EDGE[a] & _FACES_OF_EDGE[b])

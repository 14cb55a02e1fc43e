"""Caps openings: every border loop of an open patch that is small enough gets a lid.

The border of a patch is walked along its free half-edges. A loop of three edges is closed by one
triangle, a longer one by a fan of triangles around the mean of its corners. Where several openings
touch in one corner, the walk is cut into loops that pass every corner once. A border that does not
close (on a surface that cannot be wound) stays open. So does the outer border of a sheet: a lid
that is nearly as large as all that it would close, is no lid but a second copy of the sheet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.mesh import Mesh, face_areas
from threed_gen.geometry.patches import patch_edges, ranked


@dataclass(frozen=True)
class Caps:
    """Faces that close openings, and the corners they need."""

    vertices: NDArray[np.float64]  # [v, 3] middles of fans, numbered on from the mesh's own
    faces: NDArray[np.int64]  # [f, 3] wound like the patch around them
    patch: NDArray[np.int64]  # [f] the patch that each closes
    loops: int


def find_caps(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    patch: NDArray[np.int64],
    largest: float,
    largest_lid: float,
) -> Caps:
    """Caps for the openings of patches wound alike, with a longest box side up to `largest`.

    `largest_lid`: area of a lid, as a share of all else that bounds the volume it closes.
    """
    border = _border_loops(faces, patch)
    if len(border.loop) == 0:
        return Caps(np.zeros((0, 3)), np.zeros((0, 3), np.int64), np.zeros(0, np.int64), 0)
    start = np.flatnonzero(np.diff(border.loop, prepend=-1))
    length = np.diff(start, append=len(border.loop))
    corner = vertices[border.ends[:, 0]]
    low, high = np.minimum.reduceat(corner, start), np.maximum.reduceat(corner, start)
    middle = np.add.reduceat(corner, start) / length[:, None]
    fan = np.stack([vertices[border.ends[:, 1]], corner, middle[border.loop]], axis=1)
    area = np.add.reduceat(_areas(fan), start)
    loop_patch = border.patch[start]
    small = (high - low).max(axis=1) <= largest
    count = int(patch.max()) + 1
    bounding = np.bincount(patch, weights=_areas(vertices[faces]), minlength=count)
    bounding += np.bincount(loop_patch, weights=np.where(small, area, 0.0), minlength=count)
    chosen = small & (area <= largest_lid * (bounding[loop_patch] - area))
    return _build(border, chosen, start, length, middle, len(vertices))


@dataclass(frozen=True)
class _Border:
    """Border half-edges in closed loops, sorted by loop."""

    ends: NDArray[np.int64]  # [B, 2] walked from, to
    patch: NDArray[np.int64]  # [B]
    loop: NDArray[np.int64]  # [B] 0..L-1


def _build(
    border: _Border,
    chosen: NDArray[np.bool_],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    middle: NDArray[np.float64],
    first_vertex: int,
) -> Caps:
    fan = chosen & (length > 3)
    number = np.full(len(chosen), -1)
    number[fan] = first_vertex + np.arange(np.count_nonzero(fan))
    wide = fan[border.loop]
    fans = np.column_stack([border.ends[wide][:, ::-1], number[border.loop[wide]]])
    first = start[chosen & (length == 3)]
    a, b = border.ends[first].T
    third = border.ends[first[:, None] + np.arange(3), 0].sum(axis=1) - a - b
    return Caps(
        middle[fan],
        np.concatenate([np.column_stack([b, a, third]), fans]),
        np.concatenate([border.patch[first], border.patch[wide]]),
        int(np.count_nonzero(chosen)),
    )


def _border_loops(faces: NDArray[np.int64], patch: NDArray[np.int64]) -> _Border:
    edges = patch_edges(patch, faces)
    free = (edges.count % 2 == 1) & (np.abs(edges.balance) == 1)
    ends, owner = edges.ends[free], edges.patch[free]
    back = edges.balance[free] < 0
    ends[back] = ends[back][:, ::-1]
    # The same corner of two patches is two places.
    step = int(faces.max(initial=0)) + 1
    places = np.unique(owner[:, None] * step + ends, return_inverse=True)[1].reshape(-1, 2)
    count = int(places.max(initial=-1)) + 1
    leaving = np.bincount(places[:, 0], minlength=count)
    arriving = np.bincount(places[:, 1], minlength=count)
    links = coo_matrix((np.ones(len(places), np.int8), tuple(places.T)), shape=(count, count))
    piece = connected_components(links, directed=False)[1].astype(np.int64)
    pieces = int(piece.max(initial=-1)) + 1
    broken = np.zeros(pieces, dtype=bool)
    broken[piece[leaving != arriving]] = True
    crossed = np.zeros(pieces, dtype=bool)
    crossed[piece[leaving > 1]] = True
    of_edge = piece[places[:, 0]]
    loop = np.where(broken[of_edge], -1, of_edge)
    apart = np.flatnonzero((crossed & ~broken)[of_edge])
    loop[apart] = pieces + _simple_loops(places[apart])
    kept = np.flatnonzero(loop >= 0)
    number = ranked(loop[kept])[0]
    order = kept[np.argsort(number, kind="stable")]
    return _Border(ends[order], owner[order], np.sort(number))


def _simple_loops(walk: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut closed walks [B, 2] into loops that pass every place once; the loop of each step."""
    leaving: dict[int, list[int]] = {}
    for step, (a, _) in reversed(list(enumerate(walk.tolist()))):
        leaving.setdefault(a, []).append(step)
    loop = np.full(len(walk), -1)
    loops = 0
    for begin in range(len(walk)):
        if loop[begin] >= 0:
            continue
        path: list[int] = []  # steps walked and not yet part of a loop
        at: dict[int, int] = {}  # place: how many steps of the path were walked before it
        here = int(walk[begin, 0])
        while True:
            if here in at:
                closed = path[at[here] :]
                del path[at[here] :]
                loop[closed] = loops
                loops += 1
                for step in closed:
                    at.pop(int(walk[step, 0]), None)
            if not path and not leaving.get(here):
                break
            at[here] = len(path)
            step = leaving[here].pop()
            path.append(step)
            here = int(walk[step, 1])
    return loop


def _areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return face_areas(Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3)))

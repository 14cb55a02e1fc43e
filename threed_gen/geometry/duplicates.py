"""Takes out faces that a file holds more than once, in either winding.

One copy of each stays, with one exception: two solids glued together share a wall of two faces
each, and there both go, because the wall lies inside the union. It is told by two signs: without
its doubled faces the part is closed, and the wall lies inside what is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.connectivity import component_labels, edge_ids
from threed_gen.geometry.enclosure import contains

_SAMPLES = 64  # faces of a wall that are asked whether they lie inside


def without_duplicates(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Faces [F, 3] without copies, in their first order. `vertices` in the unit cube."""
    _, first, copies = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True
    )
    if len(first) == len(faces):
        return faces
    order = np.argsort(first)
    once, doubled = faces[first[order]], copies[order] > 1
    part = component_labels(once)
    rows = np.flatnonzero(doubled & _closed_without(once, part, doubled)[part])
    wall = component_labels(once[rows])  # several walls, or fins, of one part decide for themselves
    gone = np.zeros(len(once), dtype=bool)
    for members in np.split(rows[np.argsort(wall, kind="stable")], np.cumsum(np.bincount(wall))):
        if len(members) == 0:
            continue
        outer = once[(part == part[members[0]]) & ~doubled]
        spread = np.linspace(0, len(members) - 1, min(_SAMPLES, len(members))).astype(np.int64)
        middles = vertices[once[members[spread]]].mean(axis=1)
        gone[members] = contains(vertices[outer], middles).all()
    return once[~gone]


def _closed_without(
    faces: NDArray[np.int64], part: NDArray[np.int64], doubled: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Parts that are open, and closed and not empty without their doubled faces, bool [P]."""
    edge = edge_ids(faces)
    of_edge = np.empty(int(edge.max(initial=-1)) + 1, np.int64)
    of_edge[edge] = np.tile(part, 3)
    count = int(part.max(initial=-1)) + 1

    def is_open(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        uses = np.bincount(edge[np.tile(chosen, 3)], minlength=len(of_edge))
        return np.bincount(of_edge[uses % 2 == 1], minlength=count) > 0

    left = np.bincount(part[~doubled], minlength=count) > 0
    return is_open(np.ones(len(faces), dtype=bool)) & ~is_open(~doubled) & left

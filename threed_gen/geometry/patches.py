"""Cuts a surface into patches and winds the faces of each patch alike.

Faces are neighbours where exactly two of them share an edge; edges of one, three or more faces
separate. Each patch is wound like its first face. That is a question of parity, answered for all
patches at once: every face is put twice into a graph, as it is and turned round, and neighbours
are linked in the way that makes them agree. What hangs together with the first face as it is has
the right winding; and where a face hangs together with its own turned copy (a Moebius strip), the
patch has no winding at all and keeps the one it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.connectivity import component_labels, edge_ids
from threed_gen.geometry.mesh import half_edges


@dataclass(frozen=True)
class Patches:
    """A surface cut into patches, the faces of each wound alike where that is possible."""

    faces: NDArray[np.int64]  # [F, 3]
    label: NDArray[np.int64]  # [F] patch of each face, 0..P-1, in the order of first faces
    closed: NDArray[np.bool_]  # [P] every edge of the patch has an even number of its faces
    orientable: NDArray[np.bool_]  # [P] every edge is walked as often in one direction


def cut_into_patches(faces: NDArray[np.int64]) -> Patches:
    """Patches of a mesh [F, 3].

    A patch, or several patches that hang together, that closes up by itself becomes one closed
    patch. So a fin on a box leaves the box closed: whatever has a free edge is set aside, and what
    is left is looked at again.
    """
    label, wound = _manifold_patches(faces)
    closed = ~_per_group(label, _odd_edges(label, faces))
    rest = np.flatnonzero(~closed[label])
    kept = rest[_without_free_edges(faces[rest], label[rest])]
    part = component_labels(faces[kept])
    even = ~_per_group(part, _odd_edges(part, faces[kept]))
    kept, part = kept[even[part]], part[even[part]]
    label, is_closed = label.copy(), closed[label]
    if len(kept):
        label[kept] = part + int(label.max()) + 1
        is_closed[kept] = True
        wound[kept] = _manifold_patches(faces[kept])[1]
    label, first = ranked(label)
    orientable = ~_per_group(label, _unbalanced_edges(label, wound))
    # Closed but not orientable: parity decides, and turning single faces would mean nothing.
    result = np.where(orientable[label][:, None], wound, faces)
    return Patches(result, label, is_closed[first], orientable)


def ranked(label: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels numbered in the order in which they first occur, and where each occurs first."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)], first[order]


@dataclass(frozen=True)
class PatchEdges:
    """The undirected edges of each patch; one that two patches share is listed for both."""

    patch: NDArray[np.int64]  # [E]
    ends: NDArray[np.int64]  # [E, 2] low vertex first
    count: NDArray[np.int64]  # [E] faces of the patch at the edge
    balance: NDArray[np.int64]  # [E] how often walked from low to high, less the other way


def patch_edges(label: NDArray[np.int64], faces: NDArray[np.int64]) -> PatchEdges:
    """Edges of all patches, sorted by patch."""
    if len(faces) == 0:
        none = np.zeros(0, np.int64)
        return PatchEdges(none, none.reshape(0, 2), none, none)
    walked = half_edges(faces)
    edge = edge_ids(faces)
    key = np.tile(label, 3) * (int(edge.max()) + 1) + edge
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    direction = np.where(walked[:, 0] < walked[:, 1], 1, -1)
    return PatchEdges(
        np.tile(label, 3)[first],
        np.sort(walked[first], axis=1),
        np.bincount(inverse.reshape(-1)),
        np.rint(np.bincount(inverse.reshape(-1), weights=direction)).astype(np.int64),
    )


def _manifold_patches(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patch of each face [F], and the faces wound like the first one of their patch [F, 3]."""
    count = len(faces)
    if count == 0:
        return np.zeros(0, np.int64), faces
    edge = edge_ids(faces)
    order = np.argsort(edge, kind="stable")
    start = np.flatnonzero(np.diff(edge[order], prepend=-1))
    pair = start[np.diff(start, append=len(order)) == 2]
    first, second = order[pair], order[pair + 1]
    walked = half_edges(faces)
    # Two faces wound alike walk their common edge in opposite directions.
    differ = (walked[first, 0] == walked[second, 0]).astype(np.int64)
    left, right = first % count, second % count
    rows = np.concatenate([2 * left, 2 * left + 1])
    columns = np.concatenate([2 * right + differ, 2 * right + 1 - differ])
    links = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(2 * count, 2 * count))
    twin = connected_components(links, directed=False)[1].reshape(count, 2)
    label, root = ranked(twin.min(axis=1).astype(np.int64))
    turned = twin[:, 0] != twin[root[label], 0]
    return label, np.where(turned[:, None], faces[:, ::-1], faces)


def _odd_edges(label: NDArray[np.int64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    edges = patch_edges(label, faces)
    return edges.patch[edges.count % 2 == 1]


def _unbalanced_edges(label: NDArray[np.int64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Patches of edges that cannot be: a border edge is walked once, all others as often back."""
    edges = patch_edges(label, faces)
    return edges.patch[np.abs(edges.balance) != edges.count % 2]


def _per_group(label: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the groups that are named in `found`."""
    named = np.zeros(int(label.max(initial=-1)) + 1, dtype=bool)
    named[found] = True
    return named


def _without_free_edges(faces: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which faces are left when patches with a free edge go, again and again, bool [F]."""
    alive = np.ones(len(faces), dtype=bool)
    if len(faces) == 0:
        return alive
    edge = edge_ids(faces)
    for _ in range(100):  # a longer chain of fins on fins stays as it is
        alive_edge = np.tile(alive, 3)
        free = np.bincount(edge[alive_edge], minlength=int(edge.max()) + 1) == 1
        loose = np.unique(np.tile(label, 3)[alive_edge & free[edge]])
        if len(loose) == 0:
            break
        alive &= ~np.isin(label, loose)
    return alive

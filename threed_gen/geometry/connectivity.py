"""Which faces hang together, and whether their windings agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.mesh import half_edges


def edge_ids(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the undirected edge under each half-edge, int64 [3F], numbered from 0."""
    edges = np.sort(half_edges(faces), axis=1)
    key = edges[:, 0] * (int(faces.max(initial=0)) + 1) + edges[:, 1]
    ids: NDArray[np.int64] = np.unique(key, return_inverse=True)[1].reshape(-1)
    return ids


def component_labels(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the component of each face, int64 [F]; faces that share an edge share it."""
    edge = edge_ids(faces)
    count = len(faces)
    face = np.tile(np.arange(count), 3)
    order = np.argsort(edge, kind="stable")
    same = edge[order][1:] == edge[order][:-1]
    left, right = face[order][1:][same], face[order][:-1][same]
    links = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def is_consistent(faces: NDArray[np.int64]) -> bool:
    """True when every edge is walked as often in one direction as in the other."""
    edges = half_edges(faces)
    direction = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    return not np.bincount(edge_ids(faces), weights=direction).any()

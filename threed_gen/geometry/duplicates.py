"""Takes out faces that a file holds more than once, and refuses surfaces that enclose nothing.

Two innocent causes of duplicates are told apart. A surface doubled with both windings keeps one
copy of each face. Two solids glued together share a wall of two faces each; there both go, because
the wall lies inside the union. A third cause is not innocent: a thin sheet drawn from both sides
has no inside, and the mesh is refused as not closed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.connectivity import component_labels, edge_ids
from threed_gen.geometry.enclosure import EnclosedVolume
from threed_gen.geometry.mesh import Mesh, MeshError

_SAMPLES = 64  # cancelled faces that are asked whether they lie inside the union


def without_duplicates(mesh: Mesh) -> NDArray[np.int64]:
    """Faces [F, 3] of the closed surface, in their first order.

    Raises MeshError `not_closed`, naming the number of boundary edges.
    """
    faces = mesh.faces
    _, first, copies = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True
    )
    order = np.argsort(first)
    first, copies = first[order], copies[order]
    _demand_closed(faces)
    if len(first) == len(faces):
        return faces
    once = faces[first]
    edge = edge_ids(once)
    odd_edges = np.bincount(edge) % 2 == 1
    if not odd_edges.any():
        return once
    component = component_labels(once)
    at_odd = np.unique(component[np.flatnonzero(odd_edges[edge]) % len(once)])
    # A closed surface stays closed when faces are taken away in pairs.
    cancelled = np.isin(component, at_odd) & (copies % 2 == 0)
    result = once[~cancelled]
    if not _all_inside(mesh.vertices, result, once[cancelled]):
        raise _not_closed(int(odd_edges.sum()))
    _demand_closed(result)
    return result


def _demand_closed(faces: NDArray[np.int64]) -> None:
    odd = int(np.count_nonzero(np.bincount(edge_ids(faces)) % 2))
    if odd:
        raise _not_closed(odd)


def _not_closed(count: int) -> MeshError:
    return MeshError(f"the mesh is not closed: {count} boundary edges", "not_closed")


def _all_inside(
    vertices: NDArray[np.float64], surface: NDArray[np.int64], faces: NDArray[np.int64]
) -> bool:
    """True when the middles of (up to 64 of) the faces lie inside the closed surface."""
    if len(surface) == 0:
        return False
    volume = EnclosedVolume(vertices[surface], orientable=False)
    some = faces[np.linspace(0, len(faces) - 1, min(_SAMPLES, len(faces))).astype(np.int64)]
    return all(volume.contains(point) for point in vertices[some].mean(axis=1))

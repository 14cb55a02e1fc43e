"""Mesh: positions and triangles, and the few questions about them that every other file asks.

A mesh here has its vertices merged by position (see mesh_io.py), so that two faces that touch in
space also share their vertex numbers. Only then do dihedral angles, boundary edges and closed
surfaces mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError

MERGE_TOLERANCE = 1e-8  # of the longest side of the box


class MeshError(UserError):
    """A mesh that cannot be used. `reason` is a short code for the ledger of rejects."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[MeshError], tuple[str, str]]:
        # Exceptions travel between worker processes; the default would forget `reason`.
        return type(self), (str(self), self.reason)


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in whatever frame its source used."""

    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3] vertex numbers, counter-clockwise seen from outside

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", np.ascontiguousarray(self.vertices, np.float64))
        object.__setattr__(self, "faces", np.ascontiguousarray(self.faces, np.int64))
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"vertices must be [V, 3], got {self.vertices.shape}")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise ValueError(f"faces must be [F, 3], got {self.faces.shape}")

    @property
    def triangles(self) -> NDArray[np.float64]:
        """Corner positions of every face, float64 [F, 3, 3]."""
        return self.vertices[self.faces]

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest corner of the box around all vertices that a face uses."""
        used = self.vertices[np.unique(self.faces)] if len(self.faces) else self.vertices
        if len(used) == 0:
            return np.zeros(3), np.zeros(3)
        return used.min(axis=0), used.max(axis=0)


def face_vectors(mesh: Mesh) -> NDArray[np.float64]:
    """Normal times twice the area of every face, float64 [F, 3]."""
    a, b, c = np.moveaxis(mesh.triangles, 1, 0)
    return np.cross(b - a, c - a)


def face_areas(mesh: Mesh) -> NDArray[np.float64]:
    """Area of every face, float64 [F], in squared mesh units."""
    areas: NDArray[np.float64] = 0.5 * np.linalg.norm(face_vectors(mesh), axis=1)
    return areas


def face_normals(mesh: Mesh) -> NDArray[np.float64]:
    """Unit normal of every face, float64 [F, 3]; zero where a face has no area."""
    vectors = face_vectors(mesh)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def signed_volume(mesh: Mesh) -> float:
    """Enclosed volume of a closed mesh; negative when its faces look inwards."""
    if len(mesh.faces) == 0:
        return 0.0
    # Measured from the middle of the mesh, because far from the origin the terms would cancel.
    low, high = mesh.bounds
    a, b, c = np.moveaxis(mesh.triangles - (low + high) / 2, 1, 0)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)


def edge_counts(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Undirected edges [E, 2] (low vertex first) and how many faces use each, int64 [E]."""
    edges = np.sort(half_edges(faces), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return unique, counts


def half_edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Directed edges of all faces, int64 [3F, 2]: edge k of face f is row k * F + f."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def boundary_edge_count(mesh: Mesh) -> int:
    """Number of edges with an odd number of faces: 0 for a closed surface.

    Four faces at an edge (two boxes that touch along it) still enclose a volume; one or three
    cannot.
    """
    _, counts = edge_counts(mesh.faces)
    return int(np.count_nonzero(counts % 2))


def is_watertight(mesh: Mesh) -> bool:
    """True when there are faces and, after merging equal positions, no boundary edge."""
    return len(mesh.faces) > 0 and boundary_edge_count(merge_by_position(mesh)) == 0


def merge_by_position(mesh: Mesh, tolerance: float = MERGE_TOLERANCE) -> Mesh:
    """Give vertices at the same position one number; drop faces that collapse and unused vertices.

    `tolerance` is a fraction of the longest side of the box. It only has to absorb rounding (CAD
    exports write 0 as 1e-17 on one side of a seam), so it is far below a float32 step. Faces that
    have three different corners but no area stay: they hold their neighbours together, and taking
    them out would open a closed surface. The order of vertices and faces is otherwise kept.
    """
    positions = _snapped(mesh.vertices, tolerance)
    order = np.lexsort(positions.T[::-1])  # stable: equal positions stay in their first order
    ranked = positions[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    representative = np.empty(len(order), dtype=np.int64)
    representative[order] = order[first][np.cumsum(first) - 1]
    faces = representative[mesh.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(positions[used], faces.reshape(-1, 3))


def _snapped(positions: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Give coordinates that differ by rounding only the same value, axis by axis."""
    snapped = positions + 0.0  # a copy, and -0.0 becomes 0.0: the same place
    if len(snapped) == 0:
        return snapped
    gap = tolerance * float(np.ptp(snapped, axis=0).max())
    for axis in range(3):
        values, inverse = np.unique(snapped[:, axis], return_inverse=True)
        starts = np.ones(len(values), dtype=bool)
        starts[1:] = np.diff(values) > gap
        snapped[:, axis] = values[starts][np.cumsum(starts) - 1][inverse.reshape(-1)]
    return snapped

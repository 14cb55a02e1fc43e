"""Points on triangle meshes, seeded, and exact distances from points to triangles.

The tools under the metrics. Everything is float64: at 512³ and above the distances that count
are a few 1e-5 of the box, where float32 closest-point code already shows its own error.
"""

from __future__ import annotations

from dataclasses import dataclass

import igl
import numpy as np
import numpy.typing as npt

from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.rays import RayMesh

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Surface:
    """A mesh without its zero-area faces (they carry no surface and have no normal)."""

    vertices: Float  # [V, 3]
    faces: Int  # [F, 3]
    normals: Float  # [F, 3] unit
    areas: Float  # [F]

    @property
    def empty(self) -> bool:
        return len(self.faces) == 0


def surface_of(mesh: Mesh, center: Float | None = None, scale: float = 1.0) -> Surface:
    """The faces of `mesh` that have an area, moved by `(x - center) * scale`.

    Faces with a non-finite corner are left out as well: they are nowhere.
    """
    vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
    faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    if center is not None:
        vertices = (vertices - center) * scale
    a, b, c = (vertices[faces[:, k]] for k in range(3))  # each [F, 3]
    cross = np.cross(b - a, c - a)  # [F, 3]
    double = np.linalg.norm(cross, axis=1)  # [F]
    keep = np.isfinite(double) & (double > 0)
    # A non-finite vertex would poison the search tree even where no face uses it any more.
    vertices = np.where(np.isfinite(vertices), vertices, 0.0)
    return Surface(
        vertices=np.ascontiguousarray(vertices),
        faces=np.ascontiguousarray(faces[keep]),
        normals=cross[keep] / double[keep, None],
        areas=0.5 * double[keep],
    )


def sample_surface(surface: Surface, samples: int, seed: int) -> tuple[Float, Int]:
    """Points uniform over the area, and the face of each.

    Args:
        surface: not empty.
        samples: how many points.
        seed: the same seed, mesh and count give the same points.

    Returns:
        Points [N, 3] and face indices [N].
    """
    random = np.random.Generator(np.random.Philox(seed))
    edges = np.cumsum(surface.areas)
    # Stratified over the area: one draw in each of N equal shares. Still uniform, with less noise.
    where = (np.arange(samples) + random.random(samples)) / samples * edges[-1]
    face = np.minimum(np.searchsorted(edges, where, side="right"), len(edges) - 1)
    u, v = np.sqrt(random.random(samples))[:, None], random.random(samples)[:, None]
    a, b, c = (surface.vertices[surface.faces[face, k]] for k in range(3))
    return (1 - u) * a + u * (1 - v) * b + u * v * c, face


def closest(points: Float, surface: Surface) -> tuple[Float, Int]:
    """Exact distance of each point to the triangles of `surface`, and the nearest face.

    Returns:
        Distances [N] (not squared) and face indices [N].
    """
    squared, face, _ = igl.point_mesh_squared_distance(points, surface.vertices, surface.faces)
    return np.sqrt(np.maximum(squared, 0.0)), np.asarray(face, np.int64)


def seen_from_outside(surface: Surface, points: Float, face: Int) -> Bool:
    """Which points [N] of `surface`, on faces [N], can be seen from outside: bool [N].

    One of 64 rays spread over the sphere, each from the side of the face that it points to, has to
    leave the surface. Rays are float32 in a cube around this surface; they only vote.
    """
    corners = surface.vertices[surface.faces]  # [F, 3, 3]
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    side = float((high - low).max())
    rays = RayMesh((corners - low) / side)
    return rays.sees_the_sky((points - low) / side, surface.normals[face])

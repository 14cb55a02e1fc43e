"""How far a field is from the mesh it was made of, as far as anybody can see the difference.

Points are spread over the source by area, and only those count from which at least one of many
rays over the sphere leaves the mesh: buried faces and the walls of cavities are dropped on purpose
(interior.py) and are no loss. Distances are exact point-to-triangle distances in float64, between
these points and the surface that the field holds, and between points of that surface and the
source. The unit is the voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, face_areas, face_normals
from threed_gen.geometry.rays import RayMesh
from threed_gen.geometry.sparse_sdf import SparseSDF

FAR_VOXELS = 2.0
_REACH = 4.0  # farther than anything in the unit cube is from anything


@dataclass(frozen=True)
class Fidelity:
    """Distances in voxels; the diagonal of the grid where there is nothing to compare."""

    mean_to_result: float  # from visible points of the source to the field's surface
    mean_to_source: float  # from points of the field's surface to the source
    share_beyond_2: float  # visible points of the source farther than two voxels
    visible_share: float  # of the source's points


def fidelity(
    mesh: Mesh,
    sdf: SparseSDF,
    samples: int = 20_000,
    seed: int = 0,
    device: str | None = None,
    result: Mesh | None = None,
) -> Fidelity:
    """Compare a mesh in the frame of its file with the field made of it.

    `result` spares extracting the field's surface a second time.
    """
    source = _to_unit(mesh, sdf)
    found = _to_unit(extract_mesh(sdf) if result is None else result, sdf)
    points, face = surface_samples(source, samples, seed)
    rays = RayMesh(source.triangles, device)
    visible = rays.sees_the_sky(points, face_normals(source)[face])
    if len(found.faces) == 0 or not visible.any():
        far = float(np.sqrt(3.0) * sdf.resolution)
        return Fidelity(far, far, float(len(found.faces) == 0), float(visible.mean()))
    to_result = _distances(points[visible], found, device) * sdf.resolution
    back = surface_samples(found, samples, seed + 1)[0]
    to_source = _distances(back, source, device) * sdf.resolution
    return Fidelity(
        mean_to_result=float(to_result.mean()),
        mean_to_source=float(to_source.mean()),
        share_beyond_2=float(np.mean(to_result > FAR_VOXELS)),
        visible_share=float(visible.mean()),
    )


def surface_samples(
    mesh: Mesh, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points spread by area, [count, 3], and the faces they lie on, [count]."""
    rng = np.random.default_rng(seed)
    area = face_areas(mesh)
    face = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    root = np.sqrt(u)  # uniform in a triangle
    a, b, c = np.moveaxis(mesh.triangles[face], 1, 0)
    return a * (1 - root) + b * (root * (1 - v)) + c * (root * v), face


def _to_unit(mesh: Mesh, sdf: SparseSDF) -> Mesh:
    return Mesh((mesh.vertices - np.array(sdf.offset)) / sdf.scale, mesh.faces)


def _distances(points: NDArray[np.float64], mesh: Mesh, device: str | None) -> NDArray[np.float64]:
    return TriangleDistance(mesh.triangles, device).of_points(points, _REACH)[0]

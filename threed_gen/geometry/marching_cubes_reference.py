"""Marching cubes written as one would say it: the definition that marching_cubes.py is tested by.

One voxel dictionary, one cell at a time, one triangle at a time. Slow; for tests and for reading.
"""

from __future__ import annotations

import numpy as np

from threed_gen.geometry.marching_cubes import MIN_STEP
from threed_gen.geometry.marching_cubes_tables import EDGES, case_triangles
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import SparseSDF

Voxel = tuple[int, int, int]


def extract_mesh_reference(sdf: SparseSDF, level: float = 0.0) -> Mesh:
    """Same result as `extract_mesh`, except for the order of vertices and faces."""
    voxels = sdf.voxel_coords().reshape(-1, 3).tolist()
    value = {
        (x, y, z): float(s) - level
        for (x, y, z), s in zip(voxels, sdf.sdf.reshape(-1), strict=True)
    }
    number: dict[tuple[Voxel, int], int] = {}  # grid edge (lower voxel, axis) -> vertex
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for low in value:
        corners = [_moved(low, c) for c in range(8)]
        if not all(corner in value for corner in corners):
            continue
        case = sum(1 << c for c in range(8) if value[corners[c]] < 0)
        for triangle in case_triangles(case):
            face = []
            for edge in triangle:
                corner, axis = EDGES[edge]
                start, end = corners[corner], corners[corner | 1 << axis]
                if (start, axis) not in number:
                    number[start, axis] = len(vertices)
                    vertices.append(_crossing(sdf, start, axis, value[start], value[end]))
                face.append(number[start, axis])
            faces.append(face)
    return Mesh(np.array(vertices).reshape(-1, 3), np.array(faces, dtype=np.int64).reshape(-1, 3))


def _moved(voxel: Voxel, corner: int) -> Voxel:
    return voxel[0] + (corner & 1), voxel[1] + (corner >> 1 & 1), voxel[2] + (corner >> 2 & 1)


def _crossing(sdf: SparseSDF, start: Voxel, axis: int, v0: float, v1: float) -> list[float]:
    """Where the field crosses 0 between two neighbouring voxel centres, in the mesh's frame."""
    step = min(max(v0 / (v0 - v1), MIN_STEP), 1 - MIN_STEP)
    place = [float(i) for i in start]
    place[axis] += step
    return [
        (p + 0.5) / sdf.resolution * sdf.scale + o for p, o in zip(place, sdf.offset, strict=True)
    ]

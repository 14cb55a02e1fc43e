"""The unit frame: every mesh is moved into the unit cube before anything is measured on it.

The longest side of its box becomes 0.95 and its centre goes to (0.5, 0.5, 0.5); the margin keeps
the narrow band inside the grid. The way back is mesh_xyz = unit_xyz * scale + offset.
"""

from __future__ import annotations

import numpy as np

from threed_gen.geometry.mesh import Mesh, MeshError

FILL = 0.95  # longest side of the mesh in the unit cube
CENTRE = 0.5


def unit_frame(mesh: Mesh) -> tuple[Mesh, float, tuple[float, float, float]]:
    """The mesh in the unit cube, with the scale and offset that lead back.

    Raises MeshError when the mesh has no faces, no extent, or positions that are not finite.
    """
    if len(mesh.faces) == 0:
        raise MeshError("the mesh has no faces", "no_faces")
    if not np.isfinite(mesh.vertices).all():
        raise MeshError("the mesh has vertices that are not finite numbers", "non_finite")
    low, high = mesh.bounds
    extent = float((high - low).max())
    if not np.isfinite(extent):
        raise MeshError("the mesh is too large to measure: its extent overflows", "non_finite")
    if extent <= 1e-30:
        raise MeshError("the mesh has no extent: all its vertices are in one place", "no_extent")
    scale = extent / FILL
    offset = (low + high) / 2 - CENTRE * scale
    # Subtract the middle first: far from the origin (v - offset) / scale would lose digits.
    unit = (mesh.vertices - (low + high) / 2) / scale + CENTRE
    return Mesh(unit, mesh.faces), scale, (float(offset[0]), float(offset[1]), float(offset[2]))

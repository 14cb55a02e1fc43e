"""From a predicted field to the surface that a person gets.

Marching cubes looks only at cells whose eight corners are stored, so the unknown deep inside a
solid grows no second wall. What a prediction may still have inside is noise: bubbles, and solids in
bubbles. Water that floods the outside does not reach them, and a part of the surface that no water
touches is left out. Nothing of the other parts is changed by that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.connectivity import component_labels
from threed_gen.geometry.flood import enclosed
from threed_gen.geometry.marching_cubes import MIN_STEP, extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import SparseSDF


def surface_of_field(field: SparseSDF, level: float = 0.0, keep_inner: bool = False) -> Mesh:
    """The surface s = level of a field of finite values, its faces counter-clockwise from outside.

    Args:
        level: in units of τ; the release takes 0.2, which makes shapes thicker.
        keep_inner: keep the parts that do not touch the outside.

    Returns:
        A mesh in the field's own frame; without faces where the field crosses the level nowhere.
    """
    mesh = extract_mesh(field, level)
    if keep_inner or not len(mesh.faces):
        return mesh
    part = component_labels(mesh.faces)
    wet = _touches(field, _outside(field, level), mesh.vertices)[mesh.faces].any(axis=1)
    touched = np.zeros(int(part.max()) + 1, dtype=bool)
    touched[part[wet]] = True
    used, faces = np.unique(mesh.faces[touched[part]], return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def _outside(field: SparseSDF, level: float) -> VoxelSet:
    """Voxels of s ≥ level, and bricks that are not stored, to which the outside spreads."""
    grid = BrickGrid(field.bricks, field.resolution)
    free = VoxelSet(grid, field.sdf >= level, grid.rows < 0)
    dry, _ = enclosed(free)
    return VoxelSet(grid, free.bits & ~dry.bits, free.cells & ~dry.cells)


def _touches(
    field: SparseSDF, outside: VoxelSet, vertices: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether one of the two voxels on either side of each vertex is outside. [V]."""
    unit = (vertices - np.array(field.offset)) / field.scale
    grid = unit * field.resolution - 0.5  # a vertex lies on the line between two voxel centres
    low = np.floor(grid + MIN_STEP / 2).astype(np.int64)
    high = np.where(grid - low > MIN_STEP / 2, low + 1, low)
    return outside.at(low) | outside.at(high)

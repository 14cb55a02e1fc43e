"""Where the truth is sharp: within two voxels of an edge at which its surface turns by over 30°.

For a source mesh the edges are its own. A stored grid has no such edges any more (marching cubes
cuts them off); but it remembers which of its voxels were within two voxels of one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from threed_gen.evaluation.surface import Bool, Float
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import FILL
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sharp_edges import NEAR_VOXELS, sharp_edges
from threed_gen.geometry.sparse_sdf import BRICK, SparseSDF, brick_keys, raster_index

ANGLE = 30.0  # degrees, as `prepare` takes it


class SharpRegion(Protocol):
    """Answers which points, in the truth's own frame, are near one of its sharp edges."""

    def near(self, points: Float) -> Bool:
        """[N, 3] → bool [N]."""
        ...


class NearEdges:
    """The surroundings of a mesh's sharp edges."""

    def __init__(self, mesh: Mesh, resolution: int) -> None:
        """`resolution`: of the grid (over a box of 1/FILL times the longest side) of two voxels."""
        low, high = mesh.bounds
        self.reach = NEAR_VOXELS * float((high - low).max()) / FILL / resolution
        ends = mesh.vertices[sharp_edges(mesh, ANGLE)]  # [E, 2, 3]
        self._distance = TriangleDistance(ends[:, [0, 1, 1]]) if len(ends) else None

    def near(self, points: Float) -> Bool:
        """Points [N, 3] within `reach` of an edge."""
        if self._distance is None:
            return np.zeros(len(points), bool)
        return np.isfinite(self._distance.of_points(points, self.reach)[0])


class NearMarked:
    """The voxels of a stored grid that are marked as near a sharp edge."""

    def __init__(self, field: SparseSDF) -> None:
        self._field = field
        self._keys = brick_keys(field.bricks, field.resolution)  # ascending

    def near(self, points: Float) -> Bool:
        """Points [N, 3] that lie in a marked voxel."""
        field, n = self._field, self._field.resolution
        voxel = np.floor((points - np.asarray(field.offset)) / field.scale * n).astype(np.int64)
        found = ((voxel >= 0) & (voxel < n)).all(axis=1)
        voxel = np.clip(voxel, 0, n - 1)
        wanted = brick_keys(voxel // BRICK, n)
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        found &= self._keys[place] == wanted
        return found & field.sharp[place, raster_index(voxel)]

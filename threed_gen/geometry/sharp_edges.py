"""Which voxels lie near a sharp edge of the source mesh (V_sharp of the Direct3D-S2 loss).

An edge is sharp when the surface turns there by more than an angle: the normals of its two faces
differ by more than that. It is read off the original triangles, not off the field, so it is as
sharp at 32^3 as at 1024^3. Edges where more than two faces meet always count. A voxel of the band
is near when its centre lies within two voxels of a sharp edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import VoxelSet
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.mesh import Mesh, face_normals, half_edges
from threed_gen.geometry.sparse_sdf import BRICK, raster_offsets, voxel_centres

NEAR_VOXELS = 2.0


class SharpEdges:
    """The sharp edges of one mesh, ready to be asked for the voxels near them."""

    def __init__(
        self,
        mesh: Mesh,
        angle_degrees: float,
        device: str | None = None,
        deep: VoxelSet | None = None,
    ) -> None:
        """`mesh` in the unit cube; `angle_degrees` in (0, 180]; edges in `deep` do not count."""
        self.edges = sharp_edges(mesh, angle_degrees)  # [E, 2]
        self._distance: TriangleDistance | None = None
        ends = mesh.vertices[self.edges]
        if deep is not None:
            ends = _outside_of(deep, ends)
        if len(ends):
            self._distance = TriangleDistance(ends[:, [0, 1, 1]], device)

    def near(
        self,
        bricks: NDArray[np.int32],
        sdf: NDArray[np.float32],
        band: NDArray[np.bool_],
        resolution: int,
        tau: float,
    ) -> NDArray[np.bool_]:
        """Band voxels within two voxels of a sharp edge, bool [B, 512]."""
        sharp = np.zeros_like(band)
        if self._distance is None or len(bricks) == 0:
            return sharp
        reach = NEAR_VOXELS / resolution
        # Edges lie on the surface: a voxel farther from the surface is farther from every edge.
        asked = band & (np.abs(sdf) * tau <= reach * (1 + 1e-6))
        brick, voxel = np.nonzero(asked)
        xyz = bricks[brick] * np.int32(BRICK) + raster_offsets()[voxel]
        # A hair more than two voxels, so that a voxel at exactly that distance is in.
        distance, _ = self._distance.of_points(voxel_centres(xyz, resolution), reach * (1 + 1e-9))
        sharp[brick, voxel] = np.isfinite(distance)
        return sharp


def _outside_of(deep: VoxelSet, ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """The parts of segments [E, 2, 3] that do not lie in `deep`, cut about once per voxel."""
    resolution = deep.grid.resolution
    length = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    parts = np.maximum(np.ceil(length * resolution), 1).astype(np.int64)
    edge = np.repeat(np.arange(len(ends)), parts)
    first = (np.arange(len(edge)) - (np.cumsum(parts) - parts)[edge]) / parts[edge]
    start, way = ends[edge, 0], ends[edge, 1] - ends[edge, 0]
    cut = np.stack([start + way * (first + k / parts[edge])[:, None] for k in (0, 1)], axis=1)
    hidden = deep.at(np.floor(cut.mean(axis=1) * resolution).astype(np.int64))
    touched = np.bincount(edge, weights=hidden, minlength=len(ends)) > 0
    return np.concatenate([ends[~touched], cut[touched[edge] & ~hidden]])


def sharp_edges(mesh: Mesh, angle_degrees: float) -> NDArray[np.int64]:
    """Edges [E, 2] where the surface turns by more than `angle_degrees`, whatever the windings."""
    if not 0 < angle_degrees <= 180:
        raise ValueError(f"angle_degrees must lie in (0, 180], got {angle_degrees}")
    directed = half_edges(mesh.faces)
    edge = np.sort(directed, axis=1)
    order = np.lexsort((edge[:, 1], edge[:, 0]))
    edge, walk = edge[order], (directed[:, 0] < directed[:, 1])[order]
    face = np.tile(np.arange(len(mesh.faces)), 3)[order]
    first = np.ones(len(edge), dtype=bool)
    first[1:] = (edge[1:] != edge[:-1]).any(axis=1)
    start = np.flatnonzero(first)
    count = np.diff(start, append=len(edge))
    pair = start[count == 2]
    normals = face_normals(mesh)
    cosine = np.einsum("ij,ij->i", normals[face[pair]], normals[face[pair + 1]])
    # Two faces wound alike walk their common edge in opposite directions.
    cosine = np.where(walk[pair] == walk[pair + 1], -cosine, cosine)
    has_area = (np.abs(normals[face[pair]]).any(axis=1)) & (
        np.abs(normals[face[pair + 1]]).any(axis=1)
    )
    turned = pair[has_area & (cosine < np.cos(np.deg2rad(angle_degrees)))]
    return np.concatenate([edge[turned], edge[start[count > 2]]])

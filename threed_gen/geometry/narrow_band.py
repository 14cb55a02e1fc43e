"""Mesh to SparseSDF: repair, signs, and exact distances where the surface is.

repair.py makes a Surface of any mesh and layers.py says which voxels are inside and which faces
count. Here every voxel of the bricks near those faces is measured, up to tau. Bricks in which no
voxel is nearer than tau are dropped. No array ever has R^3 entries, and bricks are measured in
chunks, so that the memory needed is that of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.candidates import CHUNK_BRICKS
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.layers import Layers, find_layers
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.repair import repair
from threed_gen.geometry.sharp_edges import SharpEdges
from threed_gen.geometry.sheets import SHEET_VOXELS
from threed_gen.geometry.signs import SignReport
from threed_gen.geometry.sparse_sdf import (
    BRICK,
    BRICK_VOXELS,
    SparseSDF,
    check_grid,
    default_tau,
    raster_offsets,
)
from threed_gen.geometry.surface import OpenSurface, Surface

# Values of voxels inside the solid are strictly negative, even on the surface itself.
_LEAST = np.float32(2.0**-20)
_MOST = np.float32(1 - 2.0**-10)  # of voxels at a cell that is cut although no face is near


def build_sparse_sdf(
    mesh: Mesh,
    resolution: int,
    tau: float | None = None,
    sharp_angle_degrees: float = 30.0,
    device: str | None = None,
    *,
    policy: OpenSurface = "shell",
    cap_extent: float = 0.05,
) -> SparseSDF:
    """Exact truncated signed distance of a mesh, in whatever state it is, on an R^3 grid.

    `tau` in unit-cube units (default: `default_tau`). Edges whose faces turn by more than
    `sharp_angle_degrees` mark the voxels near them as sharp. `policy` says what becomes of openings
    wider than `cap_extent` of the longest side (see repair.py). Distances are computed in float64
    and are the same bits on every run. Raises MeshError for meshes that bound nothing (`no_faces`,
    `flat`, ...), and UserError for an impossible grid.
    """
    check_grid(resolution, default_tau(resolution) if tau is None else float(tau))
    surface = repair(mesh, policy, cap_extent, device)
    return measure(surface, resolution, tau, sharp_angle_degrees, device)[0]


def measure(
    surface: Surface,
    resolution: int,
    tau: float | None = None,
    sharp_angle_degrees: float = 30.0,
    device: str | None = None,
) -> tuple[SparseSDF, SignReport]:
    """The field of a repaired surface, and how its signs came about."""
    tau = default_tau(resolution) if tau is None else float(tau)
    check_grid(resolution, tau)
    layers = find_layers(surface, resolution, tau, device)
    gauge = _Gauge(layers, resolution, tau)
    kept = np.delete(surface.faces, layers.dropped, axis=0)
    visible = Mesh(surface.vertices, kept)
    sharp_edges = SharpEdges(visible, sharp_angle_degrees, device, layers.deep)
    parts = [_Part.empty()]
    for start in range(0, len(layers.inside.bits), CHUNK_BRICKS):
        part = gauge.measure(slice(start, start + CHUNK_BRICKS))
        part.sharp[:] = sharp_edges.near(part.bricks, part.sdf, part.band, resolution, tau)
        parts.append(part)
    sdf = SparseSDF(
        bricks=np.concatenate([p.bricks for p in parts]),
        sdf=np.concatenate([p.sdf for p in parts]),
        band=np.concatenate([p.band for p in parts]),
        sharp=np.concatenate([p.sharp for p in parts]),
        resolution=resolution,
        tau=tau,
        scale=surface.scale,
        offset=surface.offset,
    )
    return sdf, layers.report


@dataclass(frozen=True)
class _Part:
    """The measured bricks of one chunk."""

    bricks: NDArray[np.int32]  # [b, 3]
    sdf: NDArray[np.float32]  # [b, 512]
    band: NDArray[np.bool_]  # [b, 512]
    sharp: NDArray[np.bool_]  # [b, 512]

    @staticmethod
    def empty() -> _Part:
        none = np.zeros((0, BRICK_VOXELS), dtype=bool)
        return _Part(np.zeros((0, 3), np.int32), none.astype(np.float32), none, none)


class _Gauge:
    """Measures bricks of one surface."""

    def __init__(self, layers: Layers, resolution: int, tau: float) -> None:
        self._inside, self._ragged = layers.inside, layers.ragged
        self._resolution, self._tau = resolution, tau
        self._walls, self._sheets = layers.walls, layers.sheets

    def measure(self, rows: slice) -> _Part:
        """Values of every voxel of those of the listed bricks that have a band voxel."""
        bricks = self._inside.grid.bricks[rows]
        sdf = self._solid(bricks, rows)
        if self._sheets is not None:
            sdf = np.minimum(sdf, self._shells(bricks, self._sheets))
        # Judged after rounding to float32, so that "in the band" and "|s| < 1" are the same thing.
        band = np.abs(sdf) < 1
        active = band.any(axis=1)
        band = band[active]
        return _Part(bricks[active], sdf[active], band, np.zeros_like(band))

    def _solid(self, bricks: NDArray[np.int32], rows: slice) -> NDArray[np.float32]:
        inside = self._inside.bits[rows]
        ratio = np.ones(inside.shape, dtype=np.float32)
        if self._walls is not None:
            distance = self._walls.of_bricks(bricks, self._resolution, self._tau)
            ratio = np.minimum((distance / self._tau).astype(np.float32), np.float32(1))
        if self._ragged:
            # At a gap between open faces the sign changes up to a voxel from any wall. All corners
            # of the cells that are cut there have to be in the band, else the surface would tear.
            some, every = self._inside.around(rows, 1)
            ratio = np.where(some & ~every, np.minimum(ratio, _MOST), ratio)
        negative = -np.maximum(ratio, _LEAST)
        return np.where(inside, negative, ratio).astype(np.float32)

    def _shells(self, bricks: NDArray[np.int32], sheets: TriangleDistance) -> NDArray[np.float32]:
        thick = SHEET_VOXELS / self._resolution
        distance = sheets.of_bricks(bricks, self._resolution, self._tau + thick)
        ratio = np.clip((distance - thick) / self._tau, -1, 1).astype(np.float32)
        # A shell that reaches the border of the grid ends there, closed.
        voxel = bricks[:, None, :] * np.int32(BRICK) + raster_offsets()[None]
        border = ((voxel == 0) | (voxel == self._resolution - 1)).any(axis=-1)
        return np.where(border, np.maximum(ratio, _LEAST), ratio)

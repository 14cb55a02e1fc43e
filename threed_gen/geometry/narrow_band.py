"""Mesh to SparseSDF: from one coarse cell down to the voxels, only where the surface is.

A cell of the grid is kept when its centre lies within half its diagonal plus tau of the surface
(distance changes by at most the way walked, so nothing is lost), and is cut into eight. At bricks
of 8^3 the cutting stops and every voxel of the brick is measured, up to tau. Bricks in which no
voxel is nearer than tau are dropped. No array ever has R^3 entries, and bricks are measured in
chunks, so that the memory needed is that of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.orientation import oriented_shells
from threed_gen.geometry.sharp_edges import SharpEdges
from threed_gen.geometry.signs import InsideTest
from threed_gen.geometry.sparse_sdf import (
    BRICK,
    BRICK_VOXELS,
    SparseSDF,
    brick_keys,
    check_grid,
    default_tau,
    raster_offsets,
)

_CHUNK_BRICKS = 4096  # about 2 million voxels, some 50 MB while they are measured
_COARSEST = 8  # cells along one side at which the search begins
# Values of voxels inside the solid are strictly negative, even on the surface itself.
_LEAST = np.float32(2.0**-20)


def build_sparse_sdf(
    mesh: Mesh,
    resolution: int,
    tau: float | None = None,
    sharp_angle_degrees: float = 30.0,
    device: str | None = None,
) -> SparseSDF:
    """Exact truncated signed distance of a closed mesh on an R^3 grid.

    `tau` in unit-cube units (default: `default_tau`). Edges whose faces turn by more than
    `sharp_angle_degrees` mark the voxels near them as sharp. Distances are computed in float64 and
    are the same bits on every run. Raises MeshError (`not_closed`, `no_faces`, ...) for meshes
    without an inside, and UserError for an impossible grid.
    """
    tau = default_tau(resolution) if tau is None else float(tau)
    check_grid(resolution, tau)
    unit, scale, offset = unit_frame(mesh)
    shells = oriented_shells(unit)
    surface = Mesh(unit.vertices, np.concatenate([s.faces for s in shells]))
    distance = TriangleDistance(surface.triangles, device)
    inside = InsideTest(surface.vertices, shells, resolution)
    sharp_edges = SharpEdges(surface, sharp_angle_degrees, device)
    candidates = _candidate_bricks(distance, resolution, tau)
    parts = [_Part.empty()]
    for start in range(0, len(candidates), _CHUNK_BRICKS):
        bricks = candidates[start : start + _CHUNK_BRICKS]
        part = _measure(bricks, distance, inside, resolution, tau)
        part.sharp[:] = sharp_edges.near(part.bricks, part.sdf, part.band, resolution, tau)
        parts.append(part)
    return SparseSDF(
        bricks=np.concatenate([p.bricks for p in parts]),
        sdf=np.concatenate([p.sdf for p in parts]),
        band=np.concatenate([p.band for p in parts]),
        sharp=np.concatenate([p.sharp for p in parts]),
        resolution=resolution,
        tau=tau,
        scale=scale,
        offset=offset,
    )


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


def _candidate_bricks(distance: TriangleDistance, resolution: int, tau: float) -> NDArray[np.int32]:
    """Bricks that may hold a voxel nearer than tau, sorted, int32 [B, 3]."""
    across = resolution // BRICK
    size = 1  # of a cell, in bricks
    while across > _COARSEST * size:
        size *= 2
    axis = np.arange(-(-across // size), dtype=np.int32)
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    while True:
        width = size * BRICK / resolution
        near = np.zeros(len(cells), dtype=bool)
        step = _CHUNK_BRICKS * BRICK_VOXELS
        for start in range(0, len(cells), step):
            centres = (cells[start : start + step].astype(np.float64) + 0.5) * width
            reach = 0.5 * np.sqrt(3.0) * width + tau
            near[start : start + step] = np.isfinite(distance.of_points(centres, reach)[0])
        cells = cells[near]
        if size == 1:
            return cells[np.argsort(brick_keys(cells, resolution), kind="stable")]
        size //= 2
        children = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1)
        cells = (cells[:, None, :] * 2 + children.reshape(1, 8, 3)).reshape(-1, 3)
        cells = cells[(cells * size < across).all(axis=1)].astype(np.int32)


def _measure(
    bricks: NDArray[np.int32],
    distance: TriangleDistance,
    inside: InsideTest,
    resolution: int,
    tau: float,
) -> _Part:
    """Values of every voxel of the bricks that have a band voxel."""
    ratio = (distance.of_bricks(bricks, resolution, tau) / tau).astype(np.float32)
    # Judged after rounding to float32, so that "in the band" and "|s| < 1" are the same thing.
    band = ratio < 1
    active = band.any(axis=1)
    bricks, ratio, band = bricks[active], np.minimum(ratio[active], 1), band[active]
    voxels = bricks[:, None, :] * np.int32(BRICK) + raster_offsets()[None]
    negative = -np.maximum(ratio, _LEAST)
    sdf = np.where(inside(voxels), negative, ratio).astype(np.float32)
    return _Part(bricks, sdf, band, np.zeros_like(band))

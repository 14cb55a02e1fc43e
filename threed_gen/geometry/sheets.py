"""Open sheets: what lies on their two sides, and how thick they must be.

A sheet has no inside, so it becomes a shell: sdf = d - sqrt(3)/2 voxels. Half the diagonal of a
voxel is the least that works: a point is at most that far from the nearest voxel centre, so every
grid cell that the sheet passes has a corner inside the shell, and marching cubes cannot tear it.

But an open patch is no sheet where it bounds an enclosed space, or lies against a solid. A voxel
next to it belongs to the space that one meets on the way from the face through the voxel; a piece
of the face is told by the spaces on the way along its normal and against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import VoxelSet
from threed_gen.geometry.closest_point import closest_points
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.interior import WALL, Rule, voxel_at
from threed_gen.geometry.rays import RayMesh
from threed_gen.geometry.sparse_sdf import BRICK, raster_offsets, voxel_centres

SHEET_VOXELS = 0.8661  # sqrt(3) / 2 = 0.86603, a hair more
_STEPS = (1.2, 1.7, 2.2)  # voxels from the face at which the far voxel is looked up
_CLEAR = 0.05  # voxels from a face at which a line of sight starts
_CHUNK = 1 << 20

SHEET = 2  # the kind of a face, next to WALL and INTERIOR


@dataclass(frozen=True)
class Far:
    """What lies a voxel or two away."""

    voxel: NDArray[np.int64]  # [n, 3]
    found: NDArray[np.bool_]  # [n] the voxel is settled
    inside: NDArray[np.bool_]  # [n]


class Sides:
    """The settled voxels, and how to read them from the faces in between."""

    def __init__(self, inside: VoxelSet, unsettled: VoxelSet) -> None:
        self.inside = inside
        self.unsettled = unsettled
        self.resolution = inside.grid.resolution

    def towards(self, start: NDArray[np.float64], direction: NDArray[np.float64]) -> Far:
        """The first settled voxel on the way from each start [n, 3]."""
        far = Far(
            voxel=np.zeros((len(start), 3), dtype=np.int64),
            found=np.zeros(len(start), dtype=bool),
            inside=np.zeros(len(start), dtype=bool),
        )
        for step in _STEPS:
            rest = np.flatnonzero(~far.found)
            point = start[rest] + direction[rest] * (step / self.resolution)
            voxel = voxel_at(point, self.resolution)
            settled = ~self.unsettled.at(voxel)
            far.voxel[rest], far.found[rest] = voxel, settled
            far.inside[rest] = settled & self.inside.at(voxel)
        return far


def settle(
    inside: VoxelSet,
    unsettled: VoxelSet,
    corners: NDArray[np.float64],
    distance: TriangleDistance,
    obstacles: RayMesh,
) -> VoxelSet:
    """`inside` with the unsettled voxels (those close to open faces [F, 3, 3]) decided too."""
    sides = Sides(inside, unsettled)
    grid = inside.grid
    bits, left = inside.bits.copy(), unsettled.bits.copy()
    brick, raster = np.nonzero(unsettled.bits)
    for start in range(0, len(brick), _CHUNK):
        rows, voxels = brick[start : start + _CHUNK], raster[start : start + _CHUNK]
        xyz = grid.bricks[rows] * np.int32(BRICK) + raster_offsets()[voxels]
        centres = voxel_centres(xyz, grid.resolution)
        face = distance.of_points(centres, 2.0 / grid.resolution)[1]
        nearest = closest_points(centres, corners[face])
        way = centres - nearest
        length = np.linalg.norm(way, axis=1, keepdims=True)
        far = sides.towards(nearest, way / np.maximum(length, 1e-300))
        # In a crevice the far voxel may lie behind the next wall: then it says nothing.
        known = far.found & ~obstacles.between(centres, voxel_centres(far.voxel, grid.resolution))
        bits[rows, voxels] = known & far.inside
        left[rows, voxels] = ~known
    return _from_neighbours(VoxelSet(grid, bits, inside.cells), left, obstacles)


def _from_neighbours(
    inside: VoxelSet, unsettled: NDArray[np.bool_], obstacles: RayMesh
) -> VoxelSet:
    """Settle voxels layer by layer from the neighbours that no triangle hides.

    First the outside comes in as far as it can, so that crevices stay open.
    """
    grid = inside.grid
    left = VoxelSet(grid, unsettled, np.zeros_like(inside.cells))
    steps = np.concatenate([np.eye(3, dtype=np.int32), -np.eye(3, dtype=np.int32)])
    brick, raster = np.nonzero(left.bits)
    xyz = grid.bricks[brick] * np.int32(BRICK) + raster_offsets()[raster]
    around = xyz[:, None, :] + steps  # [n, 6, 3]
    centres = np.broadcast_to(xyz[:, None, :], around.shape)
    in_sight = ~obstacles.between(
        voxel_centres(centres, grid.resolution).reshape(-1, 3),
        voxel_centres(around, grid.resolution).reshape(-1, 3),
    ).reshape(-1, 6)
    for which in ("outside", "any in sight", "any"):
        while len(brick):
            is_inside = inside.at(around)
            known = ~left.at(around)
            if which == "outside":
                known &= ~is_inside
            if which != "any":
                known &= in_sight
            votes = np.where(known, np.where(is_inside, 1, -1), 0).sum(axis=1)
            told = known.any(axis=1)
            if not told.any():
                break
            inside.bits[brick[told], raster[told]] = votes[told] > 0
            left.bits[brick[told], raster[told]] = False
            brick, raster = brick[~told], raster[~told]
            around, in_sight = around[~told], in_sight[~told]
    return inside


def _in_sight(
    sides: Sides,
    obstacles: RayMesh,
    middle: NDArray[np.float64],
    normal: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether most voxels that one sees from just above a face, within a voxel or two, are in."""
    voxel_size = 1.0 / sides.resolution
    block = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(1, 27, 3)
    voxel = voxel_at(middle + normal * (0.9 * voxel_size), sides.resolution)[:, None] + block
    way = voxel_centres(voxel, sides.resolution) - middle[:, None]  # [n, 27, 3]
    above = np.einsum("nkj,nj->nk", way, normal) > 0.3 * voxel_size
    start = np.repeat(middle + normal * (_CLEAR * voxel_size), 27, axis=0)
    hidden = obstacles.between(start, voxel_centres(voxel, sides.resolution).reshape(-1, 3))
    seen = above & ~hidden.reshape(-1, 27)
    votes = np.where(seen, np.where(sides.inside.at(voxel), 1, -1), 0).sum(axis=1)
    return votes > 0


def sheet_or_wall(sides: Sides, obstacles: RayMesh) -> Rule:
    """SHEET for pieces of open faces with the outside on both sides, WALL for the others."""

    def side(middle: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.bool_]:
        far = sides.towards(middle, normal)
        # Close to an edge no settled voxel lies that way: take one that is in plain sight.
        left = np.flatnonzero(~far.found)
        far.inside[left] = _in_sight(sides, obstacles, middle[left], normal[left])
        return far.inside

    def decide(corners: NDArray[np.float64]) -> NDArray[np.int8]:
        middle = corners.mean(axis=1)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
        wall = side(middle, normal) | side(middle, -normal)
        return np.where(wall, np.int8(WALL), np.int8(SHEET))

    return Rule(decide)

"""The policy `winding`: an opening is closed where the winding number of the open faces is 1/2.

Far from the openings of a well-wound patch the number is nearly 0 or 1 (Jacobson et al. 2013), so
it is asked at a few voxels of every connected piece of space of a brick, and at all its voxels only
where those are not of one mind. From the bricks through which the level 1/2 passes the search goes
on into empty bricks until it has covered the openings; what empty bricks are left are told in
connected groups. The level surface itself becomes a lid of triangles, measured like any others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.candidates import union_of_bricks
from threed_gen.geometry.flood import brick_pieces
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import (
    BRICK,
    BRICK_VOXELS,
    SparseSDF,
    brick_keys,
    raster_offsets,
    voxel_centres,
)

_CLEAR = 0.15  # from 1/2: all asked voxels of a piece farther than that on one side settle it
_ASKED = 8  # voxels of each piece


@dataclass(frozen=True)
class Openings:
    """Where the level 1/2 says that space is inside."""

    inside: VoxelSet  # on a grid that lists the bricks of the lids too
    lids: NDArray[np.float64]  # [T, 3, 3] triangles of the level, in the unit cube


class OpenWinding:
    """Winding numbers of open faces, wound as well as can be, at voxels."""

    def __init__(self, mesh: Mesh, resolution: int) -> None:
        self._mesh = mesh
        self._resolution = resolution

    def at(self, xyz: NDArray[np.integer]) -> NDArray[np.float64]:
        """Winding number at the centres of voxels [n, 3]."""
        import igl

        if len(xyz) == 0:
            return np.zeros(0)
        centres = np.ascontiguousarray(voxel_centres(xyz, self._resolution))
        found: NDArray[np.float64] = igl.fast_winding_number(
            self._mesh.vertices, np.ascontiguousarray(self._mesh.faces), centres
        )
        return found

    def of_bricks(self, bricks: NDArray[np.int32]) -> NDArray[np.float64]:
        """Winding number of all voxels, [b, 512]."""
        xyz = bricks[:, None, :] * np.int32(BRICK) + raster_offsets()[None]
        return self.at(xyz.reshape(-1, 3)).reshape(-1, BRICK_VOXELS)


def close_openings(solid: VoxelSet, close: VoxelSet, mesh: Mesh) -> Openings:
    """`solid` and whatever space the open faces of `mesh` surround more than half.

    `close`: voxels at the open faces, which are left for their sides to tell.
    """
    grid = solid.grid
    winding = OpenWinding(mesh, grid.resolution)
    bits, crossed = _listed_bricks(~solid.bits & ~close.bits, grid, winding)
    search = _Search(grid, winding, solid.cells)
    search.spread(grid.bricks[crossed])
    inside = VoxelSet(grid, solid.bits | bits, solid.cells)
    new = search.found()
    while True:
        inside = _with_bricks(inside, new, winding)
        told = inside.cells | _cells(inside.grid, solid.cells, winding)
        inside = VoxelSet(inside.grid, inside.bits, told & (inside.grid.rows < 0))
        new = _at_steps(inside)
        if len(new) == 0:
            break
    of_level = inside.grid.find(grid.bricks[~crossed])
    level = np.delete(inside.grid.bricks, of_level, axis=0)
    return Openings(inside, _lids(level, winding, grid.resolution))


def _with_bricks(inside: VoxelSet, new: NDArray[np.int32], winding: OpenWinding) -> VoxelSet:
    """The same set on a grid that lists more bricks, whose voxels are asked one by one."""
    old = inside.grid
    grid = BrickGrid(union_of_bricks(old.bricks, new, old.resolution), old.resolution)
    bits = np.zeros((len(grid.bricks), BRICK_VOXELS), dtype=bool)
    bits[grid.find(old.bricks)] = inside.bits
    bits[grid.find(new)] = winding.of_bricks(new) > 0.5
    return VoxelSet(grid, bits, inside.cells & (grid.rows < 0))


def _at_steps(inside: VoxelSet) -> NDArray[np.int32]:
    """Bricks that are not listed although the set ends at or in front of them, [b, 3]."""
    grid = inside.grid
    cubes = inside.bits.reshape(-1, BRICK, BRICK, BRICK)
    found = [np.zeros((0, 3), dtype=np.int32)]
    for step in itertools.product((-1, 0, 1), repeat=3):
        beside = grid.bricks + np.array(step, dtype=np.int32)
        alone = grid.find(beside) == -1
        x, y, z = (_LAYER[s] for s in step)
        layer = cubes[alone][:, x, y, z]
        value = inside.cells[tuple(beside[alone].T)][:, None, None, None]
        found.append(beside[alone][(layer != value).any(axis=(1, 2, 3))])
        here, there = (tuple(_shifted(s, k) for s in step) for k in (0, 1))
        free = grid.rows < 0
        differ = free[here] & free[there] & (inside.cells[here] != inside.cells[there])
        start = np.array([max(-s, 0) for s in step])
        found.append((np.argwhere(differ) + start).astype(np.int32))
    return np.unique(np.concatenate(found), axis=0)


_LAYER = {-1: slice(0, 1), 0: slice(None), 1: slice(-1, None)}  # of a brick, on that side


def _shifted(step: int, end: int) -> slice:
    """Where a step along one axis begins (end 0) or leads to (end 1), as far as in the grid."""
    low = max(step if end else -step, 0)
    high = min(step if end else -step, 0)
    return slice(low, high or None)


def _listed_bricks(
    free: NDArray[np.bool_], grid: BrickGrid, winding: OpenWinding
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Free voxels above the level [B, 512], and bricks in whose space the level passes [B]."""
    labels, count = brick_pieces(free)
    flat = labels.reshape(-1)
    voxels = np.flatnonzero(flat)
    order = np.argsort(flat[voxels], kind="stable")
    voxels = voxels[order]
    size = np.bincount(flat, minlength=count + 1)[1:]
    start = np.cumsum(size) - size
    share = np.linspace(0, 1, _ASKED)
    picked = voxels[start[:, None] + np.rint(share * (size[:, None] - 1)).astype(np.int64)]
    value = winding.at(_xyz(grid, picked.reshape(-1))).reshape(-1, _ASKED)
    above = (value > 0.5 + _CLEAR).all(axis=1)
    below = (value < 0.5 - _CLEAR).all(axis=1)
    bits = np.concatenate([[False], above])[flat]
    unsure = voxels[np.repeat(~above & ~below, size)]
    bits[unsure] = winding.at(_xyz(grid, unsure)) > 0.5
    bits = bits.reshape(free.shape)
    in_piece = np.bincount(flat[bits.reshape(-1)], minlength=count + 1)[1:]
    split = (in_piece > 0) & (in_piece < size)
    crossed = np.zeros(len(free), dtype=bool)
    crossed[voxels[start[split]] // BRICK_VOXELS] = True
    return bits, crossed


def _xyz(grid: BrickGrid, flat: NDArray[np.int64]) -> NDArray[np.int32]:
    offsets = raster_offsets()[flat % BRICK_VOXELS]
    return grid.bricks[flat // BRICK_VOXELS] * np.int32(BRICK) + offsets


class _Search:
    """Follows the level through bricks that are not listed."""

    def __init__(self, grid: BrickGrid, winding: OpenWinding, solid: NDArray[np.bool_]) -> None:
        self._grid, self._winding = grid, winding
        self._seen = (grid.rows >= 0) | solid
        self._found = [np.zeros((0, 3), dtype=np.int32)]

    def spread(self, front: NDArray[np.int32]) -> None:
        """Find all bricks through which the level passes, starting beside those of `front`."""
        around = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.int32)
        while len(front):
            beside = (front[:, None, :] + around).reshape(-1, 3)
            beside = beside[((beside >= 0) & (beside < self._grid.across)).all(axis=1)]
            beside = beside[~self._seen[tuple(beside.T)]]
            first = np.unique(brick_keys(beside, self._grid.resolution), return_index=True)[1]
            beside = beside[first]
            self._seen[tuple(beside.T)] = True
            front = beside[self._passes(beside)]
            self._found.append(front)

    def _passes(self, bricks: NDArray[np.int32]) -> NDArray[np.bool_]:
        ends = np.array(list(itertools.product((-1, BRICK), repeat=3)), dtype=np.int32)
        xyz = bricks[:, None, :] * np.int32(BRICK) + ends
        value = self._winding.at(xyz.reshape(-1, 3)).reshape(-1, len(ends))
        result: NDArray[np.bool_] = (value.max(axis=1) > 0.5 - 0.05) & (
            value.min(axis=1) < 0.5 + 0.05
        )
        return result

    def found(self) -> NDArray[np.int32]:
        return np.concatenate(self._found)


def _cells(grid: BrickGrid, solid: NDArray[np.bool_], winding: OpenWinding) -> NDArray[np.bool_]:
    """Bricks that are not listed, told in connected groups, [n, n, n]."""
    labels = ndimage.label((grid.rows < 0) & ~solid)[0]
    number, first = np.unique(labels, return_index=True)
    cell = np.stack(np.unravel_index(first[number > 0], labels.shape), axis=-1)
    above = winding.at(cell * BRICK + BRICK // 2) > 0.5
    told: NDArray[np.bool_] = np.concatenate([[False], above])[labels]
    return told


def _lids(bricks: NDArray[np.int32], winding: OpenWinding, resolution: int) -> NDArray[np.float64]:
    """Triangles of the level 1/2 in these bricks, [T, 3, 3]."""
    if len(bricks) == 0:
        return np.zeros((0, 3, 3))
    bricks = bricks[np.argsort(brick_keys(bricks, resolution), kind="stable")]
    s = np.clip(1 - 2 * winding.of_bricks(bricks), -1, 1).astype(np.float32)
    band = np.ones(s.shape, dtype=bool)
    field = SparseSDF(bricks, s, band, ~band, resolution, 1.0, scale=1.0, offset=(0.0, 0.0, 0.0))
    return extract_mesh(field).triangles

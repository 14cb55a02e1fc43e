"""Yes-or-no answers for every voxel of the grid, stored for the listed bricks only.

Bricks that are not listed hold one answer for all their voxels. So a question about any voxel of
an R^3 grid is answered from one bit per stored voxel and one per brick of the grid: (R/8)^3, two
million at R = 1024, is the largest array here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.sparse_sdf import BRICK, BRICK_VOXELS, raster_index


class BrickGrid:
    """Where in the list each brick of the grid stands."""

    def __init__(self, bricks: NDArray[np.int32], resolution: int) -> None:
        """`bricks` int32 [B, 3], unique."""
        self.bricks = bricks
        self.resolution = resolution
        self.across = resolution // BRICK
        self.rows = np.full((self.across,) * 3, -1, dtype=np.int32)  # [n, n, n], -1: not listed
        self.rows[tuple(bricks.T)] = np.arange(len(bricks), dtype=np.int32)

    def find(self, bricks: NDArray[np.integer]) -> NDArray[np.int32]:
        """Row of each brick [..., 3]: -1 where it is not listed, -2 beyond the grid."""
        there = np.logical_and.reduce((bricks >= 0) & (bricks < self.across), axis=-1)
        safe = np.where(there[..., None], bricks, 0)
        return np.where(there, self.rows[tuple(np.moveaxis(safe, -1, 0))], np.int32(-2))


@dataclass(frozen=True)
class VoxelSet:
    """A set of voxels of the grid. Nothing beyond the grid belongs to it."""

    grid: BrickGrid
    bits: NDArray[np.bool_]  # [B, 512] of the listed bricks, raster order
    cells: NDArray[np.bool_]  # [n, n, n] of all other bricks

    def __bool__(self) -> bool:
        return bool(self.bits.any() or self.cells.any())

    def __or__(self, other: VoxelSet) -> VoxelSet:
        return VoxelSet(self.grid, self.bits | other.bits, self.cells | other.cells)

    def complement(self) -> VoxelSet:
        """All other voxels of the grid."""
        return VoxelSet(self.grid, ~self.bits, ~self.cells & (self.grid.rows < 0))

    def on(self, grid: BrickGrid) -> VoxelSet:
        """The same set on a grid that lists more bricks; none of it may lie in those."""
        bits = np.zeros((len(grid.bricks), BRICK_VOXELS), dtype=bool)
        bits[grid.find(self.grid.bricks)] = self.bits
        return VoxelSet(grid, bits, self.cells)

    def at(self, xyz: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each voxel [..., 3] belongs to the set."""
        brick = xyz // BRICK
        row = self.grid.find(brick)
        cell = tuple(np.moveaxis(np.clip(brick, 0, self.grid.across - 1), -1, 0))
        known = row >= 0
        stored = self.bits[np.where(known, row, 0), raster_index(xyz)] if len(self.bits) else False
        return np.where(known, stored, self.cells[cell] & (row == -1))

    def padded(self, rows: slice, halo: int) -> NDArray[np.bool_]:
        """Listed bricks with `halo` voxels around each, bool [b, 8 + 2 halo, .., ..]."""
        bricks = self.grid.bricks[rows].astype(np.int64)
        side = BRICK + 2 * halo
        padded = np.zeros((len(bricks), side, side, side), dtype=bool)
        cubes = self.bits.reshape(-1, BRICK, BRICK, BRICK)
        for step in itertools.product((-1, 0, 1), repeat=3):
            to = (slice(None), *(_to(s, halo) for s in step))
            source = (slice(None), *(_from(s, halo) for s in step))
            beside = bricks + np.array(step)
            row = self.grid.find(beside)
            cell = tuple(np.clip(beside, 0, self.grid.across - 1).T)
            alone = (self.cells[cell] & (row == -1))[:, None, None, None]
            stored = cubes[np.maximum(row, 0)][source] & (row >= 0)[:, None, None, None]
            padded[to] = stored | alone
        return padded

    def around(self, rows: slice, reach: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether any, and whether all voxels within `reach` along each axis belong: [b, 512]."""
        some = self.padded(rows, reach)
        every = some.copy()
        for axis in (1, 2, 3):
            cut = [
                tuple(slice(k, k + BRICK) if a == axis else slice(None) for a in range(4))
                for k in range(2 * reach + 1)
            ]
            some = np.logical_or.reduce([some[c] for c in cut])
            every = np.logical_and.reduce([every[c] for c in cut])
        return some.reshape(-1, BRICK_VOXELS), every.reshape(-1, BRICK_VOXELS)

    def grown(self, reach: int, chunk: int = 4096) -> VoxelSet:
        """All listed voxels that have one of this set within `reach` along each axis."""
        return self._mapped(reach, chunk, 0)

    def shrunk(self, reach: int, chunk: int = 4096) -> VoxelSet:
        """All listed voxels that have only this set within `reach` along each axis."""
        return self._mapped(reach, chunk, 1)

    def _mapped(self, reach: int, chunk: int, which: int) -> VoxelSet:
        bits = np.zeros_like(self.bits)
        for start in range(0, len(bits), chunk):
            rows = slice(start, start + chunk)
            bits[rows] = self.around(rows, reach)[which]
        return VoxelSet(self.grid, bits, self.cells)


def _to(step: int, halo: int) -> slice:
    """Where in a padded brick the voxels of the brick on that side go."""
    return (slice(halo, halo + BRICK), slice(halo + BRICK, None), slice(0, halo))[step]


def _from(step: int, halo: int) -> slice:
    """Which of its voxels those are."""
    return (slice(None), slice(0, halo), slice(BRICK - halo, None))[step]

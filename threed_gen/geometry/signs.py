"""Inside or outside, for any voxel of the grid, as far as closed patches tell.

A closed patch is wound outwards. Its winding number at a voxel is an integer by construction (see
scanline.py), and a voxel is inside when the numbers of all closed patches add up to at least 1: so
overlapping parts unite. A closed patch that no winding can make consistent (a Klein bottle) counts
1 where a ray crosses it an odd number of times.

What the report says about the rest: sheets.py thickens open patches, flood.py finds what they
enclose, interior.py drops what nobody can see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.candidates import CHUNK_BRICKS
from threed_gen.geometry.scanline import ColumnCrossings, column_crossings
from threed_gen.geometry.sparse_sdf import BRICK, BRICK_VOXELS, raster_offsets
from threed_gen.geometry.surface import Surface


@dataclass(frozen=True)
class SignReport:
    """How the signs of one field came about. Shares of area: of all faces after repair."""

    sheet_share: float = 0.0  # area of faces with the outside on both sides: thickened
    thin_share: float = 0.0  # area of closed walls that no voxel sees; sheets, where not enclosed
    interior_share: float = 0.0  # area of faces with the inside on both sides: dropped
    enclosed_share: float = 0.0  # voxels near faces that are inside only because nothing leads in
    enclosed_pieces: int = 0  # separate spaces that nothing leads to

    def with_shares(self, sheet: float, interior: float) -> SignReport:
        """The same report once the faces are sorted."""
        return replace(self, sheet_share=sheet, interior_share=interior)


class InsideTest:
    """Answers for voxels of an R^3 grid, prepared once per surface and resolution."""

    def __init__(self, surface: Surface, resolution: int) -> None:
        self.resolution = resolution
        corners = surface.vertices[surface.faces]
        wound = (surface.closed & surface.orientable)[surface.patch]
        self._oriented: ColumnCrossings | None = None
        if wound.any():
            ones = np.ones(np.count_nonzero(wound), dtype=np.int32)
            self._oriented = column_crossings(corners[wound], ones, resolution)
        self._even_odd = [
            column_crossings(corners[surface.patch == patch], None, resolution)
            for patch in np.flatnonzero(surface.closed & ~surface.orientable)
        ]

    def winding(self, xyz: NDArray[np.integer]) -> NDArray[np.int32]:
        """Sum of the winding numbers of all closed patches at voxels [..., 3]."""
        total = np.zeros(xyz.shape[:-1], dtype=np.int32)
        if self._oriented is not None:
            total += self._oriented.winding(xyz)
        for crossings in self._even_odd:
            total += crossings.winding(xyz) % 2
        return total

    def __call__(self, xyz: NDArray[np.integer]) -> NDArray[np.bool_]:
        """True for voxels [..., 3] whose centre lies inside a closed patch."""
        inside: NDArray[np.bool_] = self.winding(xyz) >= 1
        return inside

    def on_grid(self, grid: BrickGrid) -> tuple[VoxelSet, bool]:
        """All voxels inside closed patches, and whether patches overlap anywhere.

        Bricks that are not listed must be crossed by no face of a closed patch.
        """
        bits = np.zeros((len(grid.bricks), BRICK_VOXELS), dtype=bool)
        deepest = 0
        for start in range(0, len(bits), CHUNK_BRICKS):
            bricks = grid.bricks[start : start + CHUNK_BRICKS]
            winding = self.winding(bricks[:, None, :] * np.int32(BRICK) + raster_offsets()[None])
            bits[start : start + CHUNK_BRICKS] = winding >= 1
            deepest = max(deepest, int(winding.max()))
        cell = np.stack(np.unravel_index(np.arange(grid.rows.size), grid.rows.shape), axis=-1)
        cells = self(cell * BRICK + BRICK // 2).reshape(grid.rows.shape)
        return VoxelSet(grid, bits, cells & (grid.rows < 0)), deepest > 1

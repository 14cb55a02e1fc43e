"""Inside or outside, for any voxel of the grid: the sign rule for closed meshes.

The rule: add up the winding numbers of all shells, solids counting +1 and cavities -1 (see
orientation.py); a voxel is inside when the sum is at least 1. The numbers are integers by
construction (see scanline.py), so the sign changes only across real faces and the extracted
surface is watertight.

Faces buried inside another solid still count as surface for the distance; the sign ignores them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.orientation import Shell
from threed_gen.geometry.scanline import ColumnCrossings, column_crossings


class InsideTest:
    """Answers `inside` for voxels of an R^3 grid, prepared once per mesh and resolution."""

    def __init__(self, vertices: NDArray[np.float64], shells: list[Shell], resolution: int) -> None:
        """`vertices` float64 [V, 3] in the unit cube; `shells` from `oriented_shells`."""
        oriented = [s for s in shells if s.orientable]
        self._oriented: ColumnCrossings | None = None
        if oriented:
            faces = np.concatenate([s.faces for s in oriented])
            weights = np.repeat([s.part for s in oriented], [len(s.faces) for s in oriented])
            self._oriented = column_crossings(vertices[faces], weights, resolution)
        self._even_odd = [
            (s.part, column_crossings(vertices[s.faces], None, resolution))
            for s in shells
            if not s.orientable
        ]

    def __call__(self, xyz: NDArray[np.integer]) -> NDArray[np.bool_]:
        """True for voxels [..., 3] whose centre lies inside the solid."""
        total = np.zeros(xyz.shape[:-1], dtype=np.int32)
        if self._oriented is not None:
            total += self._oriented.winding(xyz)
        for part, crossings in self._even_odd:
            total += part * (crossings.winding(xyz) % 2)
        inside: NDArray[np.bool_] = total >= 1
        return inside

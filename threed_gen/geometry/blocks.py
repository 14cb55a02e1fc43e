"""Cells as a surface to look at: the outer faces of their cubes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.mesh import Mesh


def block_mesh(cells: NDArray[np.integer], grid: int) -> Mesh:
    """The union of the cubes of cells [T, 3] in [0, grid)³, in the unit cube.

    A face between two cells is left out, so solids are closed; vertices are shared.
    """
    xyz = np.unique(np.asarray(cells, dtype=np.int64).reshape(-1, 3), axis=0)
    filled = np.zeros((grid + 2,) * 3, dtype=bool)
    filled[tuple(xyz.T + 1)] = True
    quads = []  # corners [F, 4, 3], counter-clockwise seen from outside
    for axis in range(3):
        u, v = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
        for side in (0, 1):
            step = np.zeros(3, dtype=np.int64)
            step[axis] = 2 * side - 1
            open_side = xyz[~filled[tuple((xyz + 1 + step).T)]]
            corner = open_side + np.maximum(step, 0)
            around = [corner, corner + u, corner + u + v, corner + v]
            quads.append(np.stack(around if side else around[::-1], axis=1))
    corners = np.concatenate(quads).reshape(-1, 3)
    vertices, index = np.unique(corners, axis=0, return_inverse=True)
    quad = index.reshape(-1, 4)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    return Mesh(vertices / grid, faces)

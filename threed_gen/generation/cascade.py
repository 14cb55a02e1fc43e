"""From a coarse shape to the latent cells of a finer grid, as the release goes from 512 to 1024.

The mesh is moved into the unit frame again (longest side 0.95), and the cells are the bricks of the
finer grid in which a voxel lies nearer than τ to its surface, as in training data. Which side is
inside plays no part. The release measures distances on a dense grid of R³; here only bricks near
the surface are looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError
from threed_gen.geometry.candidates import CHUNK_BRICKS, candidate_bricks
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import Mesh, MeshError
from threed_gen.geometry.sparse_sdf import check_grid, default_tau


def finer_cells(mesh: Mesh, resolution: int, tau: float | None = None) -> NDArray[np.int32]:
    """Latent cells [T, 3] in [0, R/8) around the surface of `mesh`, lexicographic.

    `tau` in unit-cube units (default: `default_tau`). Raises UserError where the coarse shape has
    no extent, or for an impossible grid.
    """
    tau = default_tau(resolution) if tau is None else tau
    check_grid(resolution, tau)
    try:
        unit, _, _ = unit_frame(mesh)
    except MeshError as err:
        raise UserError(f"the coarse shape is of no use to the cascade: {err}") from err
    distance = TriangleDistance(unit.triangles)
    bricks = candidate_bricks(distance, resolution, tau)
    near = np.zeros(len(bricks), dtype=bool)
    for start in range(0, len(bricks), CHUNK_BRICKS):
        rows = slice(start, start + CHUNK_BRICKS)
        near[rows] = (distance.of_bricks(bricks[rows], resolution, tau) < tau).any(axis=1)
    return bricks[near]

"""SparseSDF to mesh: marching cubes over the bricks that exist, and nowhere else.

A cell spans eight neighbouring voxel centres. Only cells whose eight corners are all stored are
looked at; what lies beyond the bricks is unknown, not "outside". (Filling it with +1, as dense
code does, grows a second wall inside every solid.) Where a predicted surface runs out of the known
bricks it simply ends. The crossing on a grid edge is computed once and shared by all cells around
it, so the surface is welded by construction and needs no tolerance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.marching_cubes_tables import EDGES, case_table
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import BRICK, SparseSDF, brick_keys

_CHUNK_BRICKS = 2048
# Crossings keep this distance (in voxels) from the grid points. A field that is exactly 0 at a
# voxel would put the crossings of all its edges in one place and make triangles without area.
MIN_STEP = 1e-3
_CORNERS = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)], dtype=np.int64)
_EDGE_CORNER = np.array([corner for corner, _ in EDGES], dtype=np.int64)
_EDGE_AXIS = np.array([axis for _, axis in EDGES], dtype=np.int64)


def extract_mesh(sdf: SparseSDF, level: float = 0.0) -> Mesh:
    """The surface s = level, in the frame of the source mesh, normals pointing to larger s.

    `level` in units of tau. Voxels with s < level are inside, s = level is outside. Closed for the
    field of a closed mesh; a field without a crossing gives a mesh without faces.
    """
    finder = _NeighbourBricks(sdf)
    edge_parts: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    known_edges: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    known_steps: list[NDArray[np.float64]] = [np.zeros(0)]
    for start in range(0, sdf.num_bricks, _CHUNK_BRICKS):
        edges, ids, steps = _chunk_triangles(sdf, finder, start, level)
        edge_parts.append(edges)
        known_edges.append(ids)
        known_steps.append(steps)
    # The same grid edge met in two chunks has the same crossing: keep one.
    edges, first = np.unique(np.concatenate(known_edges), return_index=True)
    steps = np.concatenate(known_steps)[first]
    faces = np.searchsorted(edges, np.concatenate(edge_parts))
    return Mesh(_positions(sdf, edges, steps), faces)


class _NeighbourBricks:
    """Finds the brick next to a brick."""

    def __init__(self, sdf: SparseSDF) -> None:
        self._across = sdf.resolution // BRICK
        self._resolution = sdf.resolution
        self._keys = brick_keys(sdf.bricks, sdf.resolution)

    def find(self, bricks: NDArray[np.int32]) -> NDArray[np.int64]:
        """Row of each brick [b, 3] in the field, -1 where it is not stored."""
        keys = brick_keys(bricks, self._resolution)
        row = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        stored = (bricks < self._across).all(axis=1) & (self._keys[row] == keys)
        return np.where(stored, row, -1)


def _with_next_voxels(sdf: SparseSDF, finder: _NeighbourBricks, start: int) -> NDArray[np.float32]:
    """Values of a chunk of bricks and of the voxels after them, [b, 9, 9, 9]; NaN: unknown."""
    bricks = sdf.bricks[start : start + _CHUNK_BRICKS]
    padded = np.full((len(bricks), BRICK + 1, BRICK + 1, BRICK + 1), np.nan, dtype=np.float32)
    cubes = sdf.sdf.reshape(-1, BRICK, BRICK, BRICK)
    for step in _CORNERS:
        row = finder.find(bricks + step.astype(np.int32))
        to, source = [], []
        for next_brick in step:
            to.append(slice(BRICK, None) if next_brick else slice(0, BRICK))
            source.append(slice(0, 1) if next_brick else slice(None))
        stored = row >= 0
        padded[stored, to[0], to[1], to[2]] = cubes[row[stored], source[0], source[1], source[2]]
    return padded


def _chunk_triangles(
    sdf: SparseSDF, finder: _NeighbourBricks, start: int, level: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Triangles as grid edges [T, 3]; the grid edges crossed, sorted, [E]; the crossings [E]."""
    padded = _with_next_voxels(sdf, finder, start)
    corner_views = [padded[:, x : x + BRICK, y : y + BRICK, z : z + BRICK] for x, y, z in _CORNERS]
    case = np.zeros(corner_views[0].shape, dtype=np.uint8)
    known = np.ones(case.shape, dtype=bool)
    for c, view in enumerate(corner_views):
        case |= (view < level).astype(np.uint8) << np.uint8(c)
        known &= ~np.isnan(view)
    cut = known & (case != 0) & (case != 255)
    brick, x, y, z = np.nonzero(cut)
    cell = sdf.bricks[start + brick].astype(np.int64) * BRICK + np.stack([x, y, z], axis=1)
    values = np.stack([view[cut] for view in corner_views], axis=1).astype(np.float64)  # [n, 8]

    table = case_table()
    counts = table.counts[case[cut]]
    of_cell = np.repeat(np.arange(len(cell)), counts)
    rank = np.arange(len(of_cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    triangles = table.triangles[np.repeat(table.starts[case[cut]], counts) + rank]  # [T, 3]

    low = cell[of_cell][:, None, :] + _CORNERS[_EDGE_CORNER[triangles]]  # [T, 3, 3]
    r = sdf.resolution
    ids = ((low[..., 0] * r + low[..., 1]) * r + low[..., 2]) * 3 + _EDGE_AXIS[triangles]
    unique, first = np.unique(ids, return_index=True)
    edge = triangles.reshape(-1)[first]
    at = of_cell[first // 3]
    v0 = values[at, _EDGE_CORNER[edge]] - level
    v1 = values[at, _EDGE_CORNER[edge] + (1 << _EDGE_AXIS[edge])] - level
    return ids, unique, np.clip(v0 / (v0 - v1), MIN_STEP, 1 - MIN_STEP)


def _positions(
    sdf: SparseSDF, edges: NDArray[np.int64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Crossings in the frame of the source mesh, [E, 3]."""
    voxel, axis = np.divmod(edges, 3)
    r = sdf.resolution
    grid = np.stack([voxel // (r * r), voxel // r % r, voxel % r], axis=1).astype(np.float64)
    grid[np.arange(len(grid)), axis] += steps
    return (grid + 0.5) / r * sdf.scale + np.array(sdf.offset)

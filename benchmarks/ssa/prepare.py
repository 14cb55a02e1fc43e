"""Real coordinates from meshes: which latent voxels Direct3D-S2 would give tokens to.

The rule, that of the official 1024³ stage: put the mesh into the unit cube, its longest side 0.95;
cut the cube into R³ fine voxels; a fine voxel is in the band when it is nearer than 4 / R to the
surface (unsigned, all faces count); a latent voxel is a group of 8³ fine voxels, and is a token
when at least one of them is in the band. R = 1024 gives the 128³ latent grid; at R = 512 the same
4 voxels are the paper's τ = 1/128. Fine voxel i is measured at (i + 0.5) / R, this project's
convention; the official code measures at i / (R − 1), which shifts the set by under a fine voxel.

Exact, yet not measured 512 times per token: the distance at a cube's centre settles most cubes at
once. Under 4 voxels, and one of the eight fine voxels around the centre is in the band: either the
centre is closer than that by more than their offset of 0.87, or one of them lies towards the
surface and is nearer than the centre itself. Farther than 4 voxels and the way to the outermost
fine voxel, and none is. Only undecided cubes are cut into eight.

To reach each size with one mesh, R is chosen so that the tokens fit: the band stays 4 fine voxels.
Meshes of which a block holds far more or fewer tokens than of the median mesh (plates that lie in
the grid's planes, machines full of interior parts) are shown, and not used.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ssa.coordinates import SIZES, CoordinateSet, save
from threed_gen.console import progress, say, table
from threed_gen.data.sources import source_from
from threed_gen.geometry.candidates import candidate_bricks
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import Mesh, MeshError

BAND = 4.0  # fine voxels
OFFICIAL = 1024  # resolution of the largest stage; up to 16k tokens the 512³ stage is nearer
SHAPES = "procedural:12:0"  # when no meshes are given
TRIES, CLOSE = 5, 0.01  # of the search for a resolution
TYPICAL = 1.25  # tokens per block may be off the median by such a factor
_HALVES = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(1, 8, 3)


def tokens_of(distance: TriangleDistance, resolution: int) -> NDArray[np.int32]:
    """Latent voxels that are tokens, sorted, int32 [N, 3]; see the rule above."""
    bricks = candidate_bricks(distance, resolution, BAND / resolution)
    found = np.zeros(len(bricks), dtype=bool)
    owner = np.arange(len(bricks))  # of every cube that is undecided
    cubes, edge = bricks, 8  # in units of the cube's own edge, which is so many fine voxels
    while len(cubes):
        farthest = 0.5 * (edge - 1) * math.sqrt(3)  # fine voxel from the cube's centre
        centres = (cubes.astype(np.float64) + 0.5) * edge / resolution
        measured = distance.of_points(centres, (BAND + farthest) / resolution)[0]
        found[owner[measured < BAND / resolution]] = True
        open_ = np.isfinite(measured) & ~found[owner]
        if edge == 1:
            break
        cubes = (cubes[open_][:, None] * 2 + _HALVES).reshape(-1, 3)
        owner, edge = np.repeat(owner[open_], 8), edge // 2
    return bricks[found]


def fitted(name: str, mesh: str, distance: TriangleDistance, known: int) -> CoordinateSet:
    """The set of a size, at the resolution whose tokens fit; `known`: tokens at 1024³."""
    wanted = SIZES[name]
    resolution = OFFICIAL * math.sqrt(wanted / known)
    best: CoordinateSet | None = None
    for _ in range(TRIES):
        grid = max(16, 8 * round(resolution / 8))
        if best is not None and grid == best.resolution:
            break
        now = CoordinateSet(name, mesh, grid, tokens_of(distance, grid))
        if best is None or abs(now.tokens - wanted) < abs(best.tokens - wanted):
            best = now
        if abs(now.tokens / wanted - 1) < CLOSE:
            break
        resolution = grid * math.sqrt(wanted / max(now.tokens, 1))
    assert best is not None
    return best


def assigned(tokens: dict[str, int]) -> dict[str, str]:
    """A mesh for every size: the one whose resolution is nearest to the official stage's.

    tokens: of each mesh at 1024³. No mesh is taken twice as long as there are others.
    """
    chosen: dict[str, str] = {}
    free = dict(tokens)
    for name in sorted(SIZES, key=lambda size: -SIZES[size]):
        stage = OFFICIAL if SIZES[name] > 20_000 else OFFICIAL // 2
        free = free or dict(tokens)
        chosen[name] = min(
            free,
            key=lambda mesh: abs(math.log(OFFICIAL / stage * math.sqrt(SIZES[name] / free[mesh]))),
        )
        del free[chosen[name]]
    return {name: chosen[name] for name in SIZES}


def typical(per_block: dict[str, float]) -> list[str]:
    """The meshes whose blocks are about as full as those of the median mesh."""
    median = statistics.median(per_block.values())
    return [m for m, mean in per_block.items() if 1 / TYPICAL <= mean / median <= TYPICAL]


def prepare(meshes: Path | None, path: Path) -> int:
    """Write the coordinates of all sizes, and print what they are like. Returns an exit code."""
    start = time.monotonic()
    known, distances, full, rows = {}, {}, {}, []
    for name, mesh in _meshes(meshes):
        distance = TriangleDistance(unit_frame(mesh)[0].triangles)
        one = CoordinateSet("1024³", name, OFFICIAL, tokens_of(distance, OFFICIAL))
        known[name], distances[name], full[name] = one.tokens, distance, one.per_cell(8)
        rows.append(_row(one))
    if not known:
        say(f"{meshes}: holds no mesh that could be read")
        return 1
    print(f"At {OFFICIAL}³:\n{table(HEADERS, rows)}\n")
    sets, usual = [], {mesh: known[mesh] for mesh in typical(full)}
    for size, source in progress(list(assigned(usual).items()), "fitting sizes", "size"):
        sets.append(fitted(size, source, distances[source], known[source]))
    written = save(sets, path)
    print(f"Prepared:\n{table(HEADERS, [_row(one) for one in sets])}\n")
    print(f"{path}: {written / 2**20:.2f} MiB, {time.monotonic() - start:.0f} s")
    return 0


HEADERS = ("set", "mesh", "R", "tokens", "per 4³ cell", "per 8³ block")


def _row(one: CoordinateSet) -> list[str]:
    means = [f"{one.per_cell(edge):.1f}" for edge in (4, 8)]
    return [one.name, one.mesh, f"{one.resolution}", f"{one.tokens}", *means]


def _meshes(folder: Path | None) -> Iterator[tuple[str, Mesh]]:
    for asset in progress(list(source_from(str(folder or SHAPES))), "reading meshes", "mesh"):
        try:
            yield asset.id, asset.load().mesh
        except MeshError as err:
            say(f"{asset.id}: left out, {err}")

"""Real tokens for both sizes: as many as the paper's mean shapes have at 512³ and at 1024³.

Which latent voxels are tokens is the rule of `benchmarks.ssa.prepare`. As there, meshes whose
cells are much fuller or emptier than the median mesh's are left out, those that have about the
wanted tokens at the stage's own resolution come first, and the resolution is moved until they
have. Needs the geometry libraries; what it writes is read where there is a GPU and none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.ss_dit.cases import TOKENS
from benchmarks.ssa import coordinates
from benchmarks.ssa.coordinates import CoordinateSet
from benchmarks.ssa.prepare import SHAPES, tokens_of, typical
from threed_gen.console import progress, say, table
from threed_gen.data.sources import source_from
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import MeshError

FILE = coordinates.ROOT / "benchmarks" / "gpu_data" / "ss_dit_coordinates.safetensors"
SAMPLES = 8  # of the small size
RESOLUTIONS = {"10k": 512, "46k": 1024}  # of the stages
TRIES, CLOSE = 4, 0.01  # of the search for a resolution
HEADERS = ("set", "mesh", "R", "tokens", "per 4³ cell", "per 8³ block")


def prepare(meshes: Path | None, path: Path) -> int:
    """Write the shapes of both sizes, and print them. Returns an exit code."""
    known: dict[str, CoordinateSet] = {}
    distances: dict[str, TriangleDistance] = {}
    for asset in progress(list(source_from(str(meshes or SHAPES))), "tokens at 512³", "mesh"):
        try:
            distances[asset.id] = TriangleDistance(unit_frame(asset.load().mesh)[0].triangles)
        except MeshError as err:
            say(f"{asset.id}: left out, {err}")
            continue
        tokens = tokens_of(distances[asset.id], RESOLUTIONS["10k"])
        known[asset.id] = CoordinateSet("", asset.id, RESOLUTIONS["10k"], tokens)
    usual = typical({mesh: one.per_cell(4) for mesh, one in known.items()}) if known else []
    if not usual:
        say(f"{meshes}: holds no mesh that could be read")
        return 1
    chosen = nearest({mesh: known[mesh].tokens for mesh in usual}, TOKENS["10k"])
    wanted = [("10k", number, chosen[number % len(chosen)]) for number in range(SAMPLES)]
    # Tokens of a surface grow with the square of the resolution.
    scale = (RESOLUTIONS["46k"] / RESOLUTIONS["10k"]) ** 2
    large = {mesh: round(scale * known[mesh].tokens) for mesh in usual}
    wanted.append(("46k", 0, nearest(large, TOKENS["46k"])[0]))
    sets = [
        fitted(f"{size}-{number}", TOKENS[size], known[mesh], distances[mesh])
        for size, number, mesh in progress(wanted, "fitting", "shape")
    ]
    written = coordinates.save(sets, path)
    rows = [
        [one.name, one.mesh, f"{one.resolution}", f"{one.tokens}",
         *(f"{one.per_cell(edge):.1f}" for edge in (4, 8))] for one in sets
    ]  # fmt: skip
    print(f"{table(HEADERS, rows)}\n\n{path}: {written / 2**20:.2f} MiB")
    return 0


def fitted(
    name: str, wanted: int, known: CoordinateSet, distance: TriangleDistance
) -> CoordinateSet:
    """The mesh at the resolution where it has so many tokens; `known`: at another resolution."""
    best, now = known, known
    for _ in range(TRIES):
        resolution = 8 * round(now.resolution * math.sqrt(wanted / max(now.tokens, 1)) / 8)
        if resolution == now.resolution:
            break
        now = CoordinateSet(name, known.mesh, resolution, tokens_of(distance, resolution))
        if abs(now.tokens - wanted) < abs(best.tokens - wanted):
            best = now
        if abs(now.tokens / wanted - 1) < CLOSE:
            break
    return CoordinateSet(name, best.mesh, best.resolution, best.xyz)


def nearest(tokens: Mapping[str, int], wanted: int) -> list[str]:
    """Meshes by how near their tokens are to the wanted number, as a ratio; nearest first."""
    return sorted(tokens, key=lambda mesh: abs(math.log(max(tokens[mesh], 1) / wanted)))


def load(path: Path = FILE) -> dict[str, Sequence[CoordinateSet]]:
    """The shapes of each size, nearest to the paper's first."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. `python -m benchmarks.ss_dit prepare` makes it, on a machine that "
            "has the project's geometry libraries"
        )
    sets = sorted(coordinates.load(path).values(), key=lambda one: one.name)
    return {size: [one for one in sets if one.name.startswith(f"{size}-")] for size in TOKENS}

"""Draws stored samples in child processes, so that a hundred pictures take seconds.

What a child needs of a sample is the place of its payload, never the whole index. A sample that
cannot be read (a damaged shard) comes back without a picture and with the reason; the page says so
and is made all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.console import Progress
from threed_gen.data.index import SHARDS, GridEntry, SampleEntry
from threed_gen.data.payload import CorruptSampleError, decode_payload
from threed_gen.data.shard import read_member
from threed_gen.data.workers import Lost, run_tasks
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay import CLAY, Scene, frame_of
from threed_gen.machine import cores
from threed_gen.report.meshes import coarser, poster, viewable
from threed_gen.report.text import plain

STILL_SIZE = 192  # pixels
STILL_FACES = 100_000  # more would not be seen at that size
SOLID_FACES = 40_000  # of a mesh that can be turned: about 200 kB in the page
FEW, SMALL = 24, 10_000_000  # pictures, and voxels in them: drawn before a child has started


@dataclass(frozen=True)
class Wish:
    """One picture to draw."""

    sample: int  # its place in the index
    shard: Path
    grid: GridEntry
    solid: bool  # with a mesh for the viewer


@dataclass(frozen=True)
class Drawn:
    """One picture, or why there is none."""

    sample: int
    solid: bool
    still: str = ""  # data URL
    mesh: dict[str, Any] | None = None  # for the viewer
    faces: int = 0  # of the surface, before it was made coarser
    problem: str = ""


def wish(root: Path, number: int, sample: SampleEntry, resolution: int, solid: bool) -> Wish:
    """The picture of a sample's grid."""
    grid = sample.grids[resolution]
    return Wish(number, root / SHARDS / grid.shard, grid, solid)


def draw(wishes: Sequence[Wish]) -> dict[tuple[int, bool], Drawn]:
    """All pictures, by sample and kind; many of them side by side on the cores at hand."""
    small = len(wishes) <= FEW and sum(each.grid.voxels for each in wishes) <= SMALL
    workers = 0 if small else min(cores(), 8, len(wishes))
    found: dict[tuple[int, bool], Drawn] = {}
    with Progress(len(wishes), "report", "picture") as bar:
        for drawn in run_tasks(draw_one, wishes, workers, _lost):
            found[drawn.sample, drawn.solid] = drawn
            bar.advance()
    return found


def draw_one(wanted: Wish) -> Drawn:
    """One picture; runs in a child."""
    place = wanted.grid
    try:
        blob = read_member(wanted.shard, place.offset, place.size, place.sha256)
        mesh = extract_mesh(decode_payload(blob))
    except (CorruptSampleError, OSError) as err:
        return Drawn(wanted.sample, wanted.solid, problem=plain(err))
    faces = len(mesh.faces)
    if faces == 0:
        return Drawn(wanted.sample, wanted.solid, problem="no surface")
    if wanted.solid:
        data, still = _solid(coarser(mesh, SOLID_FACES))
        return Drawn(wanted.sample, True, still, data, faces)
    return Drawn(wanted.sample, False, _still(coarser(mesh, STILL_FACES)), None, faces)


def _still(mesh: Mesh) -> str:
    return poster(Scene(mesh), CLAY, STILL_SIZE)


def _solid(mesh: Mesh) -> tuple[dict[str, Any], str]:
    return viewable(mesh, frame_of(mesh), CLAY)


def _lost(wanted: Wish, why: Lost) -> Drawn:
    return Drawn(wanted.sample, wanted.solid, problem=f"not drawn: {plain(why.message)}")

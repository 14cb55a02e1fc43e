"""The worst cases of an evaluation, drawn: truth beside prediction, from the front and behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from threed_gen.data.workers import Lost
from threed_gen.evaluation.pairs import Metrics, Pair, in_children, load_pair
from threed_gen.evaluation.verdict import badness
from threed_gen.files import atomic_file
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.render.clay import CLAY, SLATE, Image, frame_of, render
from threed_gen.report.pictures import Row, contact_sheet, nothing

SIZE = 256
MOST = 8  # shapes
BACK = 215.0  # degrees: the other side
HEADINGS = ("truth", "prediction", "truth, from behind", "prediction, from behind")


@dataclass(frozen=True)
class Drawn:
    """The pictures of one pair."""

    name: str
    images: list[Image]


def write_worst(path: Path, pairs: Sequence[Pair], rows: Sequence[Metrics], workers: int) -> int:
    """Draw the shapes with the largest Chamfer distance; returns how many.

    Args:
        path: a PNG.
        pairs: all that were judged.
        rows: what was said of them; those with a problem cannot be drawn.
    """
    measured = sorted((r for r in rows if "problem" not in r), key=badness, reverse=True)[:MOST]
    if not measured:
        return 0
    chosen = {row["name"]: row for row in measured}
    todo = [pair for pair in pairs if pair.name in chosen]
    drawn = {each.name: each.images for each in in_children(draw, todo, workers, "drawing", _lost)}
    sheet = contact_sheet(
        [Row(name, drawn[name], _note(row)) for name, row in chosen.items()],
        HEADINGS,
        f"the {len(chosen)} farthest of {sum('problem' not in row for row in rows)}",
        across=1 if len(chosen) < 4 else 2,
    )
    with atomic_file(path, "the worst cases") as file:
        sheet.save(file, format="PNG", optimize=True)
    return len(chosen)


def draw(pair: Pair) -> Drawn:
    """Runs in a child."""
    try:
        pred, truth = load_pair(pair)
    except MeshError:  # it could be read a moment ago
        return Drawn(pair.name, [nothing(SIZE, "cannot be read any more")] * len(HEADINGS))
    frame = frame_of(truth.mesh)
    both = ((truth.mesh, CLAY), (pred, SLATE))
    images = [
        render(mesh, angle, size=SIZE, frame=frame, color=color)
        for angle in (35.0, BACK)
        for mesh, color in both
    ]
    return Drawn(pair.name, [np.asarray(image) for image in images])


def _lost(pair: Pair, why: Lost) -> Drawn:
    return Drawn(pair.name, [nothing(SIZE, why.reason)] * len(HEADINGS))


def _note(row: Metrics) -> str:
    whole, seen = row["all"], row["visible"]
    parts = [f"CD-L1 {whole['cd_l1']:.5f}", f"F@0.01 {whole['f@0.01']:.3f}"]
    if seen["cd_l1"] is not None:
        parts.append(f"visible: {seen['cd_l1']:.5f}, {seen['f@0.01']:.3f}")
    if row["viou"] is not None:
        parts.append(f"vIoU {row['viou']:.3f}")
    return " · ".join(parts)

"""Predicted meshes beside their truths, by name; each pair is judged in a child process.

Files of predictions come from anywhere, so they are read where a hostile or huge one costs itself
only: with limits on time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from threed_gen.console import Progress
from threed_gen.data.source_kinds.folder import FolderSource
from threed_gen.data.workers import Lost, run_tasks
from threed_gen.errors import UserError
from threed_gen.evaluation.protocol import Sampling, compare
from threed_gen.evaluation.truths import Truth, TruthRef, load_truth
from threed_gen.geometry.mesh import Mesh, MeshError, boundary_edge_count
from threed_gen.geometry.mesh_io import load_mesh

Align = Literal["none", "unit", "box"]
Metrics = dict[str, Any]
R = TypeVar("R")
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Pair:
    """One prediction and its truth."""

    name: str
    prediction: Path | None  # None: there is no surface, which gets the worst numbers
    truth: TruthRef
    align: Align = "none"
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Matched:
    """What has a partner, and what has none."""

    pairs: list[Pair]
    without_truth: list[str]  # names of predictions
    without_prediction: list[str]  # names of truths


def match(folder: Path, truths: Sequence[TruthRef], align: Align, sampling: Sampling) -> Matched:
    """Pair the mesh files below `folder` with the truths of the same name (stem).

    UserError when no name has a partner.
    """
    files = {asset.id: asset.path for asset in FolderSource(folder).assets}
    known = {ref.name: ref for ref in truths}
    pairs = [
        Pair(name, path, known[name], align, sampling)
        for name, path in files.items()
        if name in known
    ]
    if not pairs:
        raise UserError(
            f"{folder}: no mesh has the name of a truth (meshes: {_some(files)}; truths: "
            f"{_some(known)}); name each file like its shape"
        )
    return Matched(
        pairs,
        [name for name in files if name not in known],
        [name for name in known if name not in files],
    )


def judge_pairs(pairs: Sequence[Pair], workers: int) -> list[Metrics]:
    """One row per pair, in their order; see `judge_pair`."""
    rows = {
        row["name"]: row for row in in_children(judge_pair, pairs, workers, "evaluating", lost_pair)
    }
    return [rows[pair.name] for pair in pairs]


def in_children(
    call: Callable[[Pair], R], pairs: Sequence[Pair], workers: int, label: str,
    lost: Callable[[Pair, Lost], R],
) -> Iterator[R]:  # fmt: skip
    """`call` of every pair, in child processes, as they come, behind a bar; 0 workers: here."""
    with Progress(len(pairs), label, "shape") as bar:
        for result in run_tasks(call, pairs, min(workers, len(pairs)), lost):
            yield result
            bar.advance()


def judge_pair(pair: Pair) -> Metrics:
    """The numbers of one pair (protocol.py), or "problem": why there are none."""
    row: Metrics = {"name": pair.name, "truth": pair.truth.kind}
    try:
        pred, truth = load_pair(pair)
    except MeshError as err:
        return {**row, "problem": str(err)}
    row |= {"faces": len(pred.faces), "open_edges": boundary_edge_count(pred)}
    row["box_overlap"] = box_overlap(pred, truth.mesh)
    return row | compare(pred, truth.mesh, truth.sharp, pair.sampling)


def load_pair(pair: Pair) -> tuple[Mesh, Truth]:
    """Both surfaces, in the truth's frame."""
    truth = load_truth(pair.truth)
    if pair.prediction is None:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), truth
    return placed(load_mesh(pair.prediction), truth, pair.align), truth


def placed(pred: Mesh, truth: Truth, align: Align) -> Mesh:
    """A prediction in the truth's frame.

    Args:
        align: "none": it is there already, as reconstructions are; "unit": its coordinates are
            those of the unit cube around the origin, in which models work; "box": its own box is
            laid over the truth's, centre on centre and longest side on longest side.
    """
    if align == "unit":
        return Mesh((pred.vertices + 0.5) * truth.scale + np.asarray(truth.offset), pred.faces)
    if align == "box":
        (low, high), (left, right) = pred.bounds, truth.mesh.bounds
        factor = float((right - left).max() / (high - low).max())
        return Mesh((pred.vertices - (low + high) / 2) * factor + (left + right) / 2, pred.faces)
    return pred


def box_overlap(one: Mesh, other: Mesh) -> float:
    """Intersection over union of two bounding boxes (flat ones count with a little thickness)."""
    if not len(one.faces) or not len(other.faces):
        return 0.0
    (low, high), (left, right) = one.bounds, other.bounds
    thin = 1e-6 * float((right - left).max())
    sides = [np.maximum(end - start, thin) for start, end in ((low, high), (left, right))]
    inner = np.minimum(low + sides[0], left + sides[1]) - np.maximum(low, left)
    common = float(np.prod(np.maximum(inner, 0.0)))
    return common / (float(np.prod(sides[0]) + np.prod(sides[1])) - common)


def lost_pair(pair: Pair, why: Lost) -> Metrics:
    """The row of a pair whose process took too much, too long, or crashed."""
    problem = f"{pair.prediction}: {why.reason}: {why.message}"
    return {"name": pair.name, "truth": pair.truth.kind, "problem": problem}


def _some(names: Any) -> str:
    chosen = sorted(names)
    more = f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
    return ", ".join(chosen[:SHOWN]) + more

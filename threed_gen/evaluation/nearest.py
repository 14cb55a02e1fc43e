"""Whose copy is it? Every prediction against every truth by Chamfer distance.

A model that was shown one shape's image and makes another shape may still score well on average.
So each prediction is compared with all truths, and counted right when its own is the nearest.
Distances are from points to points (a few thousand suffice to tell shapes apart), each truth in the
frame of its own box, the prediction in that of its partner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from threed_gen.console import Progress
from threed_gen.data.workers import Lost, run_tasks
from threed_gen.evaluation.metrics import unit_box
from threed_gen.evaluation.pairs import Pair, in_children, load_pair
from threed_gen.evaluation.surface import Float, sample_surface, surface_of
from threed_gen.evaluation.truths import TruthRef, load_truth
from threed_gen.geometry.mesh import Mesh, MeshError

POINTS = 4096  # of each shape


@dataclass(frozen=True)
class Cloud:
    """Points of one shape in the frame of a truth's box; None when it cannot be read."""

    name: str
    points: Float | None  # [POINTS, 3]


@dataclass(frozen=True)
class Nearest:
    """Chamfer distances of predictions [P] to truths [T]."""

    predictions: list[str]
    truths: list[str]
    distance: Float  # [P, T]; infinite where one of the two cannot be read

    @property
    def winners(self) -> list[str]:
        """The nearest truth of each prediction, the first of equals; "" where it has no surface."""
        return [
            self.truths[int(row.argmin())] if np.isfinite(row).any() else ""
            for row in self.distance
        ]

    @property
    def right(self) -> int:
        """Predictions whose own truth is nearest."""
        pairs = zip(self.predictions, self.winners, strict=True)
        return sum(name == winner for name, winner in pairs)

    def as_json(self) -> dict[str, Any]:
        """For summary.json."""
        pairs = zip(self.predictions, self.winners, strict=True)
        return {
            "right": self.right,
            "of": len(self.predictions),
            "confused": {name: winner for name, winner in pairs if name != winner},
        }

    def as_csv(self) -> str:
        """Rows are predictions, columns truths."""
        lines = [["prediction", *self.truths]]
        for name, row in zip(self.predictions, self.distance, strict=True):
            lines.append([name, *("" if np.isinf(x) else f"{x:.6g}" for x in row)])
        return "".join(",".join(map(_field, line)) + "\n" for line in lines)


def nearest(pairs: Sequence[Pair], truths: Sequence[TruthRef], workers: int) -> Nearest:
    """Compare the prediction of every pair with all of `truths`."""
    known = {}
    with Progress(len(truths), "reading truths", "shape") as bar:
        for cloud in run_tasks(truth_cloud, truths, min(workers, len(truths)), _lost_truth):
            known[cloud.name] = cloud.points
            bar.advance()
    trees = [_tree(known[ref.name]) for ref in truths]
    clouds = in_children(prediction_cloud, pairs, workers, "nearest truth", _lost_pair)
    rows = {cloud.name: _distances(cloud.points, trees) for cloud in clouds}
    table = np.array([rows[pair.name] for pair in pairs]).reshape(len(pairs), len(truths))
    return Nearest([pair.name for pair in pairs], [ref.name for ref in truths], table)


def truth_cloud(ref: TruthRef) -> Cloud:
    """Runs in a child."""
    try:
        mesh = load_truth(ref).mesh
    except MeshError:
        return Cloud(ref.name, None)  # its pair, if it has one, is listed with the reason
    return Cloud(ref.name, _points(mesh, mesh))


def prediction_cloud(pair: Pair) -> Cloud:
    """Runs in a child."""
    try:
        mesh, truth = load_pair(pair)
    except MeshError:
        return Cloud(pair.name, None)
    return Cloud(pair.name, _points(mesh, truth.mesh))


def chamfer(one: cKDTree, other: cKDTree) -> float:
    """Mean of the mean distances both ways."""
    there, back = other.query(one.data)[0].mean(), one.query(other.data)[0].mean()
    return float(there + back) / 2


def _points(mesh: Mesh, box: Mesh) -> Float | None:
    surface = surface_of(mesh, *unit_box(box))
    return None if surface.empty else sample_surface(surface, POINTS, seed=0)[0]


def _tree(points: Float | None) -> cKDTree | None:
    return None if points is None else cKDTree(points)


def _distances(points: Float | None, trees: Sequence[cKDTree | None]) -> Float:
    own = _tree(points)
    return np.array(
        [np.inf if own is None or tree is None else chamfer(own, tree) for tree in trees]
    )


def _lost_truth(ref: TruthRef, why: Lost) -> Cloud:
    return Cloud(ref.name, None)


def _lost_pair(pair: Pair, why: Lost) -> Cloud:
    return Cloud(pair.name, None)


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text

"""Judge reconstructions, shape by shape, and write the verdict into the run directory.

Each shape is compared three ways: field against stored field (what the loss sees), surface
against marching cubes of the stored field (what the model could reach), and surface against the
source mesh where there is one (what a person wanted). The last stands under "source".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from threed_gen.console import say, table
from threed_gen.errors import disk_errors
from threed_gen.evaluation.metrics import (
    DEFAULT_SAMPLES,
    HIGHER_IS_BETTER,
    field_metrics,
    mesh_metrics,
)
from threed_gen.files import write_json
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, boundary_edge_count
from threed_gen.geometry.mesh_io import save_mesh
from threed_gen.geometry.sparse_sdf import SparseSDF

FORMAT = 1
ROLES = ("truth", "reconstruction")
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One shape to be judged."""

    name: str
    truth: SparseSDF
    predicted: SparseSDF
    source: Mesh | None = None


@dataclass(frozen=True)
class Judged:
    """The verdict on one shape, and the two surfaces it is about."""

    metrics: Metrics
    truth: Mesh
    reconstruction: Mesh


def judge(shape: Shape, samples: int = DEFAULT_SAMPLES, seed: int = 0) -> Judged:
    """All metrics of one shape: field, surface, "holes" (boundary edges), and "source".

    Voxels that are not finite are counted ("nonfinite_voxels") and taken as outside for the
    surface. A metric that cannot be computed is None.
    """
    broken = ~np.isfinite(shape.predicted.sdf)
    truth, reconstruction = extract_mesh(shape.truth), extract_mesh(drawable(shape.predicted))
    metrics: Metrics = {"name": shape.name}
    metrics |= field_metrics(shape.predicted, shape.truth)
    if len(truth.faces):
        metrics |= mesh_metrics(reconstruction, truth, samples, seed)
    metrics["holes"] = boundary_edge_count(reconstruction)
    metrics["faces"] = len(reconstruction.faces)
    if broken.any():
        metrics["nonfinite_voxels"] = int(broken.sum())
    if shape.source is not None:
        metrics["source"] = finite(mesh_metrics(reconstruction, shape.source, samples, seed))
    return Judged(finite(metrics), truth, reconstruction)


def drawable(field: SparseSDF) -> SparseSDF:
    """A field as it is drawn: voxels that are not finite are outside."""
    broken = ~np.isfinite(field.sdf)
    if not broken.any():
        return field
    return replace(field, sdf=np.where(broken, np.float32(1), field.sdf))


def summarize(shapes: Sequence[Metrics]) -> tuple[Metrics, Metrics]:
    """Mean and worst of each number over the shapes, "source" included.

    A metric that is None for a shape is left out of the mean and is the worst value (None).
    """
    mean: Metrics = {}
    worst: Metrics = {}
    keys = [key for key in dict.fromkeys(k for shape in shapes for k in shape) if key != "name"]
    for key in keys:
        values = [shape[key] for shape in shapes if key in shape]
        if all(isinstance(value, Mapping) for value in values):
            mean[key], worst[key] = summarize(values)
            continue
        known = [float(value) for value in values if value is not None]
        mean[key] = math.fsum(known) / len(known) if known else None
        pick = min if key in HIGHER_IS_BETTER else max
        worst[key] = pick(known) if len(known) == len(values) else None
    return mean, worst


def evaluate_shapes(
    run_dir: Path,
    shapes: Iterable[Shape],
    *,
    step: int,
    weights: str = "ema",
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    quiet: bool = False,
) -> Metrics:
    """Judge `shapes`, write `evaluation.json` and the meshes, and print a table.

    Args:
        run_dir: receives evaluation.json and evaluation/<name>_{truth,reconstruction}.ply.
        shapes: consumed one by one, so that a generator can reconstruct as it goes.
        step: training step of the weights.
        weights: which weights were used ("ema" or "model").
        samples: surface points per side.
        seed: of these points.
        quiet: no table.

    Returns:
        The content of evaluation.json.
    """
    folder = run_dir / "evaluation"
    with disk_errors(folder, "the evaluation"):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[Metrics] = []
    resolution = 0
    taken: set[str] = set()
    written: set[str] = set()
    for shape in shapes:
        judged = judge(shape, samples, seed)
        stem = file_stem(shape.name, taken)
        for role, mesh in zip(ROLES, (judged.truth, judged.reconstruction), strict=True):
            if len(mesh.faces):  # an empty surface has no file; "faces" says 0
                save_mesh(mesh, folder / f"{stem}_{role}.ply")
                written.add(f"{stem}_{role}.ply")
        judged.metrics["files"] = stem
        rows.append(judged.metrics)
        resolution = shape.truth.resolution
    _forget_others(folder, written)
    mean, worst = summarize([{k: v for k, v in row.items() if k != "files"} for row in rows])
    verdict: Metrics = {
        "format": FORMAT,
        "run": run_dir.resolve().name,
        "step": step,
        "weights": weights,
        "resolution": resolution,
        "samples": samples,
        "undefined": sum(_undefined(row) for row in rows),  # metrics that are null below
        "shapes": rows,
        "mean": mean,
        "worst": worst,
    }
    write_json(run_dir / "evaluation.json", verdict)
    if not quiet:
        say(evaluation_table(verdict))
    return verdict


def evaluation_table(verdict: Mapping[str, Any]) -> str:
    """The verdict as a text table: one line per shape, then mean and worst."""
    columns = {
        "IoU": "iou", "sign": "sign_accuracy", "err/voxel": "error_voxels", "F@0.02": "f@0.02",
        "F@0.01": "f@0.01", "CD-L1": "cd_l1", "normals": "nc", "holes": "holes",
    }  # fmt: skip
    labelled = [*verdict["shapes"], {**verdict["mean"], "name": "mean"}]
    labelled.append({**verdict["worst"], "name": "worst"})
    sourced = any("source" in row for row in labelled)
    rows = []
    for row in labelled:
        cells = [row["name"], *[_short(key, row.get(key)) for key in columns.values()]]
        if sourced:
            cells.append(_short("f@0.02", (row.get("source") or {}).get("f@0.02")))
        rows.append(cells)
    return table(["shape", *columns, *(["F@0.02 source"] if sourced else [])], rows)


def file_stem(name: str, taken: set[str]) -> str:
    """A file name for a shape: harmless on every file system, and unlike all `taken` ones."""
    base = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:80] or "shape"
    stem, number = base, 2
    while stem.lower() in taken:
        stem, number = f"{base}_{number}", number + 1
    taken.add(stem.lower())
    return stem


def _forget_others(folder: Path, keep: set[str]) -> None:
    """Remove meshes of an earlier evaluation that this one does not replace."""
    for role in ROLES:
        for path in folder.glob(f"*_{role}.ply"):
            if path.name not in keep:
                path.unlink()


def finite(metrics: Metrics) -> Metrics:
    """Numbers that JSON has no word for (NaN, infinity) become None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }


def _undefined(metrics: Mapping[str, Any]) -> int:
    return sum(
        _undefined(value) if isinstance(value, Mapping) else value is None
        for value in metrics.values()
    )


def _short(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "holes":
        return f"{value:.0f}"
    return f"{value:.4f}" if key.startswith("cd") else f"{value:.3f}"

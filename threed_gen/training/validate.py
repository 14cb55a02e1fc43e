"""Looking at the fixed validation shapes: metrics, contact sheets, and a run's full evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from threed_gen.console import progress
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.embedded import open_prepared
from threed_gen.data.procedural.families import make_mesh, shape_index
from threed_gen.errors import UserError
from threed_gen.evaluation.evaluate import Shape, evaluate_shapes, judge, summarize
from threed_gen.generation.reconstruct import reconstruct
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.models.ss_vae import SSVAE
from threed_gen.report.previews import PreviewShape, write_data_sheet, write_preview
from threed_gen.training.load import load_run
from threed_gen.training.run_config import RunConfig
from threed_gen.training.tasks.base import Panel, ShapeResult
from threed_gen.training.validation_set import readable

DATA_SHEET_SHAPES = 16


def validate_shapes(
    model: SSVAE, dataset: SDFDataset, indices: list[int], config: RunConfig, device: Any
) -> list[ShapeResult]:
    """Reconstruct samples `indices` at the largest resolution of the run, and judge them."""
    results = []
    for index, truth in readable(indices, dataset.load, config):
        shape = Shape(dataset.entry(index).id, truth, reconstruct(model, truth, device))
        judged = judge(shape, config.validation.surface_samples)
        panels = [
            Panel("truth", judged.truth, is_truth=True),
            Panel("reconstruction", judged.reconstruction),
        ]
        note = f"IoU {judged.metrics['iou']:.3f}"
        results.append(ShapeResult(index, judged.metrics, panels, note))
    return results


def summarize_results(step: int, shapes: list[ShapeResult]) -> dict[str, Any]:
    """One line of validation.jsonl: each shape, the mean and the worst."""
    rows = [shape.metrics for shape in shapes]
    mean, worst = summarize(rows)
    return {"step": step, "mean": mean, "worst": worst, "shapes": rows}


def write_pictures(run: Path, step: int, shapes: list[ShapeResult]) -> Path:
    """The contact sheet of one validation: truth beside what the model made of it."""
    return write_preview(
        run, step,
        [PreviewShape(shape.metrics["name"], [(panel.title, panel.content, panel.is_truth)
         for panel in shape.panels], shape.note) for shape in shapes],
    )  # fmt: skip


def write_data_sheet_once(run: Path, dataset: SDFDataset, config: RunConfig) -> None:
    """Before step 1: the data as the model sees it (extracted from the stored fields)."""
    if (run / "previews" / "data.png").exists():
        return
    resolution = max(config.data.resolutions)
    count = min(DATA_SHEET_SHAPES, len(dataset))
    meshes, bad = [], 0
    for index in range(count):
        try:
            mesh = extract_mesh(dataset.load(index, resolution))
        except UserError:
            bad += 1  # the step that needs this sample says what is wrong with it
            continue
        meshes.append((dataset.entry(index).id, mesh))
    note = f"{count} of {len(dataset)} samples at resolution {resolution}"
    write_data_sheet(run, meshes, note + (f" · {bad} could not be read" if bad else ""))


def evaluate_run(
    run: Path,
    weights: str = "ema",
    meshes: Path | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Reconstruct every sample of a run's data set and write evaluation.json and the meshes.

    A run on a `train` split is measured on the samples that were held out.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).
        meshes: the folder that was prepared; with it, metrics against the source meshes stand
            beside those against the stored grid (procedural shapes need no folder).
        limit: only the first so many samples.
        quiet: print no table.
    """
    loaded = load_run(run, weights)
    data = loaded.config.data
    dataset = open_prepared(data, loaded.data).for_validation()
    resolution = max(loaded.config.data.resolutions)
    count = len(dataset) if limit is None else min(limit, len(dataset))

    def shapes() -> Iterator[Shape]:
        for index in progress(range(count), "evaluating", "shape"):
            truth = dataset.load(index, resolution)
            predicted = reconstruct(loaded.model, truth, loaded.device)
            source = source_mesh(dataset, index, meshes)
            yield Shape(dataset.entry(index).id, truth, predicted, source)

    return evaluate_shapes(
        run, shapes(), step=loaded.step, weights=weights, quiet=quiet,
        samples=loaded.config.validation.surface_samples,
    )  # fmt: skip


def source_mesh(dataset: SDFDataset, index: int, meshes: Path | None) -> Mesh | None:
    """The mesh that a sample was made from; None when its folder was not given."""
    entry = dataset.entry(index)
    origin = dataset.index.params["source"]
    if origin["kind"] == "procedural":
        return make_mesh(shape_index(entry.id), int(origin["seed"]))[1]
    if meshes is None:
        return None
    path = meshes / entry.source
    if not path.is_file():
        raise UserError(f"{path}: the mesh of sample '{entry.id}' is missing; give its folder")
    return load_mesh(path)

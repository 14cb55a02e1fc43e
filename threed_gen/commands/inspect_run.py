"""Where a run stands: steps, loss, checkpoints, the latest verdict, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from threed_gen.console import table
from threed_gen.training.run_config import load_run_config
from threed_gen.training.run_dir import RunDir, read_journal


def show_run(path: Path) -> None:
    """Print the state of the run in `path`."""
    run = RunDir(path)
    config = load_run_config(run.config)
    steps = list(read_journal(run.metrics, torn_ok=True))
    validations = list(read_journal(run.validation, torn_ok=True))
    checkpoints = sorted(p.name for p in run.checkpoints.glob("step_*"))
    state = "finished" if run.finished.exists() else "not finished"
    rows: list[tuple[str, str]] = [
        ("task", config.task),
        ("state", f"{state}: {len(steps):,} of {config.train.steps:,} steps"),
    ]
    if steps:
        last = steps[-1]
        rows.append(("loss", f"{steps[0]['loss']:.4g} at step 1 → {last['loss']:.4g} now"))
        seconds = sum(step["seconds"] for step in steps)
        rows.append(("time", f"{seconds / 60:.1f} minutes, {seconds / len(steps):.3f} s per step"))
    rows.append(("checkpoints", ", ".join(checkpoints) or "none"))
    if validations:
        newest = validations[-1]
        rows.append((f"validation at {newest['step']}", _numbers(newest["mean"])))
    verdict = path / "evaluation.json"
    if verdict.is_file():
        rows.append(("evaluation", _numbers(json.loads(verdict.read_text("utf-8"))["mean"])))
    page = path / "report.html"
    rows.append(("page", str(page) if page.is_file() else f"none yet: threed-gen report {path}"))
    print(table([path.name, ""], rows))


def _numbers(mean: dict[str, Any]) -> str:
    names = {"iou": "IoU", "error_voxels": "error (voxels)", "f@0.02": "F@0.02", "nc": "normals"}
    known = [(label, mean.get(key)) for key, label in names.items()]
    return " · ".join(f"{label} {value:.3f}" for label, value in known if value is not None)

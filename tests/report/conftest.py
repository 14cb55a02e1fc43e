"""A fabricated run directory with real small meshes, shared by the tests of the report."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from threed_gen.evaluation.evaluate import Shape, evaluate_shapes, judge
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.report.previews import PreviewShape, write_data_sheet, write_preview

EVIL = "<script>document.title='owned'</script>"
RESOLUTION = 24


def fabricate(run: Path) -> Path:
    """Three shapes, the last one with an empty reconstruction; 60 steps, two previews."""
    run.mkdir(parents=True)
    shapes = []
    sources = {
        "torus_000": trimesh.creation.torus(1.0, 0.4, 24, 16),
        EVIL: trimesh.creation.box((1.0, 0.7, 0.5)),
        "gone": trimesh.creation.icosphere(subdivisions=2),
    }
    for name, shape in sources.items():
        source = Mesh(np.asarray(shape.vertices), np.asarray(shape.faces))
        truth = build_sparse_sdf(source, RESOLUTION)
        wave = 0.1 * np.sin(truth.voxel_coords().sum(axis=2))
        values = np.ones_like(truth.sdf) if name == "gone" else truth.sdf + wave
        predicted = replace(truth, sdf=np.clip(values, -1, 1).astype(np.float32))
        shapes.append(Shape(name, truth, predicted, source))
    evaluate_shapes(run, shapes, step=60, samples=2000, quiet=True)
    judged = [judge(shape, samples=2000) for shape in shapes]
    for step in (30, 60):
        write_preview(
            run,
            step,
            [
                PreviewShape(
                    shape.name,
                    [("truth", each.truth, True), ("reconstruction", each.reconstruction, False)],
                    "IoU 0.9",
                )
                for shape, each in zip(shapes, judged, strict=True)
            ],
            size=48,
        )
    write_data_sheet(run, [(s.name, j.truth) for s, j in zip(shapes, judged, strict=True)], size=48)
    lines = [json.dumps(record(step)) for step in range(1, 61)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 61, "lo')
    validation = {"step": 60, "mean": {"iou": 0.95}, "worst": {"iou": 0.9}, "shapes": []}
    (run / "validation.jsonl").write_text(json.dumps(validation) + "\n")
    (run / "config.yaml").write_text(
        f'task: ss_vae\ntrain:\n  steps: 60\n  precision: fp32\ndata:\n  path: "{EVIL}"\n'
    )
    (run / "config_changes.txt").write_text(f"data.path: (absent) → {EVIL}\n")
    (run / "environment.json").write_text(
        json.dumps({"python": "3.11", "packages": {"torch": "2.13.0"}, "command": EVIL})
    )
    (run / "logs").mkdir()
    (run / "logs" / "warnings.jsonl").write_text(json.dumps({"step": 9, "warning": EVIL}) + "\n")
    return run


def record(step: int) -> dict[str, object]:
    """One line of metrics.jsonl."""
    return {
        "step": step, "loss": math.exp(-step / 20), "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.1,
        "terms": {"in": 0.5 / step, "ext": 0.1, "sharp": 0.2, "kl": 3.0},
        "latent": {"latent_std": 1.0, EVIL: 1.0}, "tokens_per_second": 500.0, "memory_gib": 0.8,
    }  # fmt: skip


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("runs") / "first")

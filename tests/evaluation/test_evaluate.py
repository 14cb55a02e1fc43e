"""From reconstructions to evaluation.json, its meshes and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from threed_gen.evaluation.evaluate import (
    Shape,
    evaluate_shapes,
    evaluation_table,
    file_stem,
    judge,
    summarize,
)
from threed_gen.evaluation.metrics import WORST_DISTANCE
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf

BALL = trimesh.creation.icosphere(subdivisions=3)
SOURCE = Mesh(np.asarray(BALL.vertices), np.asarray(BALL.faces))


@pytest.fixture(scope="module")
def truth():
    return build_sparse_sdf(SOURCE, 24)


def test_perfect_reconstruction(truth) -> None:
    judged = judge(Shape("ball", truth, truth, SOURCE), samples=5000)
    assert judged.metrics["iou"] == 1.0
    assert judged.metrics["error_voxels"] == 0.0
    assert judged.metrics["cd_l1"] < 1e-9
    assert judged.metrics["holes"] == 0
    # To the source the grid's own error remains: not 0, but well under a voxel (2/0.95/24).
    assert 0 < judged.metrics["source"]["cd_l1"] < 0.02


def test_nan_is_counted_and_never_reaches_json(truth, tmp_path: Path) -> None:
    values = truth.sdf.copy()
    values[0, :7] = np.nan
    evaluate_shapes(tmp_path, [Shape("broken", truth, replace(truth, sdf=values))], step=1,
                    samples=2000, quiet=True)  # fmt: skip
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text
    verdict = json.loads(text)
    row = verdict["shapes"][0]
    assert row["nonfinite_voxels"] == 7
    assert row["error_voxels_all"] is None
    assert verdict["undefined"] >= 1
    assert verdict["worst"]["error_voxels_all"] is None


def test_empty_prediction_and_leftovers_of_an_earlier_evaluation(truth, tmp_path: Path) -> None:
    evaluate_shapes(tmp_path, [Shape("ball", truth, truth), Shape("old", truth, truth)], step=1,
                    samples=2000, quiet=True)  # fmt: skip
    nothing = replace(truth, sdf=np.ones_like(truth.sdf))
    verdict = evaluate_shapes(tmp_path, [Shape("ball", truth, nothing)], step=2, samples=2000,
                              quiet=True)  # fmt: skip
    assert verdict["shapes"][0]["cd_l1"] == WORST_DISTANCE
    assert verdict["shapes"][0]["iou"] == 0.0
    assert verdict["shapes"][0]["faces"] == 0
    # The full reconstruction of before must not stand beside the new numbers.
    assert [p.name for p in (tmp_path / "evaluation").iterdir()] == ["ball_truth.ply"]


def test_file_and_table(truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = (Shape(name, truth, truth, SOURCE) for name in ("ball", "../<script>/ball", "ball"))
    verdict = evaluate_shapes(tmp_path, shapes, step=40, samples=2000)
    assert verdict == json.loads((tmp_path / "evaluation.json").read_text())
    assert {k: verdict[k] for k in ("format", "run", "step", "weights", "resolution")} == {
        "format": 1, "run": tmp_path.name, "step": 40, "weights": "ema", "resolution": 24,
    }  # fmt: skip
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert len(names) == 6
    assert all(".." not in name and "<" not in name for name in names)
    # The meshes are in the source's frame.
    saved = load_mesh(tmp_path / "evaluation" / "ball_reconstruction.ply")
    assert np.linalg.norm(saved.vertices, axis=1).mean() == pytest.approx(1.0, abs=0.02)
    printed = capsys.readouterr().err
    assert "<script>" in printed
    assert "mean" in printed
    assert evaluation_table(verdict) in printed


def test_summary_takes_the_worse_side_of_each_metric() -> None:
    mean, worst = summarize([
        {"name": "a", "iou": 0.9, "cd_l1": 0.1, "f@0.02": None, "source": {"nc": 0.5}},
        {"name": "b", "iou": 0.7, "cd_l1": 0.3, "f@0.02": 0.4, "source": {"nc": 0.7}},
    ])  # fmt: skip
    assert mean == {
        "iou": pytest.approx(0.8), "cd_l1": pytest.approx(0.2), "f@0.02": pytest.approx(0.4),
        "source": {"nc": pytest.approx(0.6)},
    }  # fmt: skip
    assert worst == {"iou": 0.7, "cd_l1": 0.3, "f@0.02": None, "source": {"nc": 0.5}}
    assert summarize([]) == ({}, {})


def test_file_stems_are_harmless_and_distinct() -> None:
    taken: set[str] = set()
    stems = [file_stem(n, taken) for n in ("mug", "Mug", "a/b", "../..", "", "é ü", "x" * 300)]
    assert len({stem.lower() for stem in stems}) == len(stems)
    assert all("/" not in stem and stem.strip(".") and len(stem) < 100 for stem in stems)

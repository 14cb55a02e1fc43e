"""The checkers of `.ci/run` and `make test-full` must themselves be able to fail."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import trimesh

from tests import summary
from tests.acceptance import curve_failures, failures, generated_failures
from threed_gen.evaluation.expected import load_band
from threed_gen.quickstart.corridor import TASKS
from threed_gen.quickstart.expected import expected_file, outside, told

GOOD: dict[str, Any] = {
    "resolution": 32,
    "undefined": 0,
    "shapes": [{}] * 12,
    "mean": {"iou": 0.92, "f@0.02": 0.93, "error_voxels": 0.15},
    "worst": {"iou": 0.85},
}


def test_figures_on_the_line_pass() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("mean", "iou", 0.9199),
        ("worst", "iou", 0.8499),
        ("mean", "f@0.02", 0.9299),
        ("mean", "error_voxels", 0.1501),
        ("mean", "iou", None),
        ("mean", "error_voxels", math.nan),
        (None, "shapes", [{}] * 9),
        (None, "resolution", 24),
        (None, "undefined", 1),
    ],
)
def test_each_figure_can_fail(where: str | None, key: str, value: object) -> None:
    verdict = copy.deepcopy(GOOD)
    (verdict if where is None else verdict[where])[key] = value
    assert len(failures(verdict)) == 1


VERDICT: dict[str, Any] = {"nearest": {"of": 8, "right": 6}, "problems": []}


def ball(radius: float = 0.4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(4, radius)


def test_what_was_generated_can_pass_and_fail() -> None:
    assert generated_failures(VERDICT, ball()) == []
    inside_out = ball()
    inside_out.invert()
    few = {**VERDICT, "nearest": {"of": 8, "right": 5}}
    fewer = {**VERDICT, "nearest": {"of": 7, "right": 7}}
    for verdict, mesh in (
        (few, ball()), (fewer, ball()), ({**VERDICT, "problems": ["x"]}, ball()),
        (VERDICT, inside_out), (VERDICT, trimesh.creation.box((0.5, 0.5, 0.5))),
    ):  # fmt: skip
        assert len(generated_failures(verdict, mesh)) == 1
    assert len(generated_failures(VERDICT, ball(0.6))) == 2


def trained(out: Path, *, times: float = 1.0, windows: int = 20) -> Path:
    """Journals of runs that follow the middle of their bands; the SS-VAE's total is scaled."""
    for task in TASKS:
        band = load_band(expected_file(task))
        terms = {name: means for name, means in band.mean.items() if name != "total"}
        lines = []
        for step in range(windows * band.window):
            k = step // band.window
            loss = band.mean["total"][k] * (times if task == "ss_vae" else 1.0)
            here = {name: m[k] for name, m in terms.items() if len(m) == len(band.mean["total"])}
            lines.append(json.dumps({"step": step + 1, "loss": loss, "terms": here}))
        (out / task).mkdir(parents=True)
        (out / task / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return out


def test_a_quickstart_inside_its_curves(tmp_path: Path) -> None:
    out = trained(tmp_path)
    assert curve_failures(out) == []
    assert "Inside the expected curves" in told(lambda task: out / task)


def test_one_training_outside_its_curves(tmp_path: Path) -> None:
    out = trained(tmp_path, times=2.0)
    lines = curve_failures(out)
    assert len(lines) == 20 and all(line.startswith("ss_vae: total: steps ") for line in lines)
    assert "20 window means lie outside" in told(lambda task: out / task)


def test_an_unfinished_quickstart_is_inside_but_not_accepted(tmp_path: Path) -> None:
    out = trained(tmp_path, windows=3)
    assert outside(lambda task: out / task) == []
    assert curve_failures(out) == [f"windows of {task}: 3 should be >= 20" for task in TASKS]
    assert curve_failures(tmp_path / "nothing")  # no journal at all


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.data.test_a" name="test_one" time="1.5"/>
<testcase classname="tests.data.test_a" name="test_two" time="0.5">
<skipped message="no GPU"/></testcase>
<testcase classname="tests.test_b" name="test_bad" time="2"><failure message="1 != 2"/></testcase>
</testsuite></testsuites>"""


def test_summary_counts_and_gives_reasons(tmp_path: Path) -> None:
    file = tmp_path / "r.xml"
    file.write_text(JUNIT)
    text = summary.page(summary.read(file), "abc1234", "2026-01-02")
    assert "**1 passed, 1 failed, 1 skipped**" in text
    assert "commit `abc1234`" in text
    assert "`test_two`: no GPU" in text
    assert "`test_bad`: 1 != 2" in text
    assert "| tests/data/test_a | 1 | 0 | 1 | 2.0 |" in text


def test_summary_of_missing_results_is_a_failure(tmp_path: Path) -> None:
    torn = tmp_path / "torn.xml"
    torn.write_text(JUNIT[:80])
    assert [case.outcome for case in summary.read(torn)] == ["failed"]
    assert [case.outcome for case in summary.read(tmp_path / "none.xml")] == ["failed"]

"""Golden loss of the SS-DiT: a run follows the committed curves, and defects leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.curves import start
from benchmarks.expected_flow_curves import CASE
from tests.training import runs
from threed_gen.evaluation.expected import departures, load_band, records, run_curves
from threed_gen.training.run_config import load_run_config

pytestmark = pytest.mark.timeout(1200)  # one rank, one thread: not a cluster test


def trained(folder: Path, windows: int, code: str = "", *more: str) -> list[str]:
    """Train until so many windows are complete; returns the departures from the band."""
    band, run = load_band(CASE.expected), folder / "run"
    process = start(CASE, code, run, [*CASE.overrides(folder), *more])
    wanted = windows * band.window + 1  # one step more: the last validation is written before it
    try:
        runs.wait_until(lambda: len(records(run / "metrics.jsonl")) >= wanted, process, 1000)
    finally:
        runs.end(process)
    return departures(run_curves(run, band.steps), band)


def test_the_config_is_the_one_that_the_curves_were_made_with() -> None:
    band = load_band(CASE.expected)
    assert load_run_config(CASE.config).train.steps == band.steps
    assert {name: len(values) for name, values in band.mean.items()} == {
        "total": 20, "velocity": 20, "validation: loss": 10, "validation: relative L2": 10,
    }  # fmt: skip


def test_the_first_windows_follow_the_curves(tmp_path: Path) -> None:
    assert trained(tmp_path, 2, "", "validation.shapes=0") == []


@pytest.mark.long
def test_half_a_run_follows_the_curves(tmp_path: Path) -> None:
    """With five validations: losses at fixed times, and samples."""
    assert trained(tmp_path, 10) == []


@pytest.mark.long
@pytest.mark.parametrize("defect", CASE.defects)
def test_defects_leave_the_curves(tmp_path: Path, defect: str) -> None:
    code, more = CASE.defects[defect]
    assert trained(tmp_path, CASE.defect_windows, code, *more)

"""Golden loss: the quickstart's run follows the committed curves, and defects leave them.

The first window of the real run is trained (it is stopped then, as a user might), with the data
that the quickstart makes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import runs
from threed_gen.evaluation.expected import Band, departures, load_band, window_means
from threed_gen.quickstart.corridor import CONFIGS, TASKS, Quickstart
from threed_gen.quickstart.expected import expected_file

CONFIG = CONFIGS / "ss_vae" / "tiny.yaml"
EXPECTED = expected_file("ss_vae")
pytestmark = pytest.mark.timeout(400)  # one rank, one thread: not a cluster test


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    way = Quickstart(tmp_path_factory.mktemp("curves") / "quickstart", None)
    way.enter()
    way.make_meshes()
    way.command(*way.preparing())
    return way.data


def first_windows(
    tmp_path: Path, data: Path, band: Band, windows: int, *overrides: str
) -> list[str]:
    """Train until `windows` windows are complete; returns the departures from the band."""
    run, log = tmp_path / "run", tmp_path / "log"
    process = runs.start(
        "python", 1,
        ["--config", str(CONFIG), "--out", str(run), f"data.path={data}", "validation.shapes=0",
         *overrides], log,
    )  # fmt: skip
    try:
        runs.wait_until(lambda: len(runs.records(run)) >= windows * band.window, process, 300)
    finally:
        runs.end(process)
    return departures(window_means(runs.records(run)[: windows * band.window], band.steps), band)


@pytest.mark.parametrize("task", TASKS)
def test_the_config_is_the_one_that_the_curves_were_made_with(task: str) -> None:
    from threed_gen.training.run_config import load_run_config

    config = load_run_config(CONFIGS / task / "tiny.yaml")
    assert config.train.steps == load_band(expected_file(task)).steps


def test_the_first_window_follows_the_curves(tmp_path: Path, data: Path) -> None:
    assert first_windows(tmp_path, data, load_band(EXPECTED), 1) == []


@pytest.mark.long
def test_three_windows_follow_the_curves(tmp_path: Path, data: Path) -> None:
    assert first_windows(tmp_path, data, load_band(EXPECTED), 3) == []


@pytest.mark.long
@pytest.mark.parametrize("defect", ["train.learning_rate=1.5e-2", "loss.extra=0.0"])
def test_defects_leave_the_curves(tmp_path: Path, data: Path, defect: str) -> None:
    assert first_windows(tmp_path, data, load_band(EXPECTED), 3, defect)

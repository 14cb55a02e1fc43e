"""A step that must not count moves nothing, is counted, and is alike on all ranks and on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training import runs
from threed_gen.training.guard import GRACE, StepGuard
from threed_gen.training.run_config import TrainConfig

FAULTY = Path(__file__).with_name("faulty_train.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.prepared(tmp_path_factory.mktemp("data"))


def start(
    folder: Path, data: Path, faults: dict[int, str], *overrides: str, ranks: int = 1
) -> tuple[int, str]:
    arguments = [json.dumps(faults), "--config", str(runs.TINY), "--out", str(folder / "run"),
                 f"data.path={data}", "train.checkpoint_every=1", "train.steps=6",
                 "train.keep_checkpoints=9", *overrides]  # fmt: skip
    log = folder / "log"
    process = runs.start("torchrun" if ranks > 1 else "python", ranks, arguments, log, FAULTY)
    try:
        return process.wait(100), log.read_text()
    finally:
        runs.end(process)


def tensors(run: Path, step: int) -> dict[str, Any]:
    """Parameters, moments and average of all ranks after a step."""
    found = {}
    for path in sorted((run / "checkpoints" / f"step_{step:08d}").glob("rank_*.safetensors")):
        found |= {f"{path.name}/{name}": value for name, value in load_file(path).items()}
    return found


def unchanged(run: Path, before: int, after: int) -> bool:
    old, new = tensors(run, before), tensors(run, after)
    return old.keys() == new.keys() and all(old[name].equal(new[name]) for name in old)


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [(0, 1), pytest.param(2, 2, marks=[pytest.mark.cluster, pytest.mark.long]),
     pytest.param(1, 2, marks=[pytest.mark.cluster, pytest.mark.long]),
     pytest.param(3, 2, marks=[pytest.mark.cluster, pytest.mark.long])],
)  # fmt: skip
def test_left_out_steps_move_nothing(data: Path, tmp_path: Path, stage: int, ranks: int) -> None:
    faults = {2: "loss", 4: "gradient", 5: "loss"}
    code, text = start(tmp_path, data, faults, "train.max_skips=2", *runs.stage_overrides(stage),
                       ranks=ranks)  # fmt: skip
    assert code == 0, text
    run = tmp_path / "run"
    records = runs.records(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "skipped" in record] == [2, 4, 5]
    assert records[-2]["skipped_steps"] == 3
    assert records[1]["loss"] is None and records[3]["grad_norm"] is None
    moved = [not unchanged(run, step - 1, step) for step in (2, 3, 4, 5, 6)]
    assert moved == [False, True, False, False, True]
    assert "step 2 left out: the loss is nan" in text


def test_too_many_in_a_row_stop_the_run(data: Path, tmp_path: Path) -> None:
    faults = {2: "loss", 3: "gradient", 4: "loss"}
    code, text = start(tmp_path, data, faults, "train.max_skips=2")
    assert code == 76, text
    lines = [line for line in text.splitlines() if line.startswith("threed-gen: error: ")]
    assert len(lines) == 1 and "Traceback" not in text
    assert "step 4: the loss is nan" in lines[0] and "after 2 skipped steps in a row" in lines[0]
    assert not (tmp_path / "run" / "checkpoints" / "step_00000004").exists()


def test_resuming_among_skipped_steps_changes_nothing(data: Path, tmp_path: Path) -> None:
    faults = {2: "loss", 4: "gradient"}
    code, text = start(tmp_path, data, faults, "train.max_skips=1")
    assert code == 0, text
    run, expected = tmp_path / "run", tensors(tmp_path / "run", 6)
    for step in (5, 6):
        for file in (run / "checkpoints" / f"step_{step:08d}").iterdir():
            file.unlink()
        (run / "checkpoints" / f"step_{step:08d}").rmdir()
    (run / "finished.json").unlink()
    code = runs.finish("python", 1, ["--resume", str(run)], tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    found = tensors(run, 6)
    assert all(found[name].equal(expected[name]) for name in expected)
    state = json.loads((run / "checkpoints" / "step_00000006" / "state.json").read_text())
    assert (state["guard"]["skipped"], state["guard"]["accepted"]) == (2, 4)


def test_a_spike_is_measured_against_the_running_average() -> None:
    guard = StepGuard(TrainConfig(spike_factor=5.0, max_skips=1))
    for _ in range(GRACE - 1):
        guard.accept(2.0)
    assert guard.judge_loss(1e6, finite=True) is None  # the average means nothing yet
    guard.accept(2.0)
    assert guard.state.average == pytest.approx(2.0)
    assert guard.judge_loss(9.9, finite=True) is None
    problem = guard.judge_loss(10.1, finite=True)
    assert problem is not None and "5.0 times" in problem
    assert not guard.skip() and guard.skip()  # one may be left out, not two in a row
    guard.accept(2.0)
    assert not guard.skip()
    again = StepGuard(guard.config)
    again.restore(json.loads(json.dumps(guard.saved())))
    assert again.state == guard.state


def test_by_default_nothing_is_left_out() -> None:
    guard = StepGuard(TrainConfig())
    assert guard.judge_loss(float("nan"), finite=False) is not None
    assert guard.judge_norm(float("inf")) is not None
    assert guard.skip()  # so the run stops

"""Ended in every way that a cluster has, a run goes on with the numbers it would have had.

Two ranks on two nodes. Each way is followed by the usual way to go on, and then every line of
metrics.jsonl is that of the uninterrupted run, value for value; times and memory aside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slurm import doors
from tests.slurm.jobs import ended
from tests.slurm.lab import SlurmLab
from tests.training import runs

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(300)]

STEPS = 60
EVERY = 8  # steps between checkpoints
STOP_AT = 12  # after the first checkpoint and before the second
LAYOUT = (1, 1)
MEASURED = {"seconds", "tokens_per_second", "memory_gib"}


@pytest.fixture(scope="module")
def uninterrupted(
    started_lab: SlurmLab, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    started_lab.clear()
    folder = tmp_path_factory.mktemp("uninterrupted")
    config, run, *overrides = submitted(folder, data)
    training = ["--config", config, "--out", run, *overrides]
    found = numbers(doors.finish(started_lab, "srun", folder, LAYOUT, training))
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    return found


def submitted(folder: Path, data: Path) -> list[str]:
    """What `sbatch slurm/ss_vae.sbatch` is given."""
    return [str(runs.TINY), str(folder / "run"), f"data.path={data}", f"train.steps={STEPS}",
            f"train.checkpoint_every={EVERY}", doors.PATIENT]  # fmt: skip


def numbers(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    return [
        {key: value for key, value in record.items() if key not in MEASURED}
        for record in runs.records(run)
    ]


def stopped(lab: SlurmLab, folder: Path, data: Path, how: str) -> None:
    """A job of `slurm/ss_vae.sbatch`, ended while it trains."""
    job = doors.submit(lab, folder, LAYOUT, "ss_vae", *submitted(folder, data))
    ranks = doors.wait_for_step(lab, folder, STOP_AT, 2)
    if how == "scancel":
        lab.run(["scancel", job])
    else:
        doors.kill(ranks[1])
    assert ended(lab, job) == {"scancel": "CANCELLED", "kill": "FAILED"}[how]
    assert not doors.ranks_of(lab, folder / "run")
    assert not (folder / "run" / "finished.json").exists()


def by_sbatch(lab: SlurmLab, folder: Path) -> None:
    job = doors.submit(lab, folder, LAYOUT, "resume", str(folder / "run"))
    assert ended(lab, job) == "COMPLETED", doors.said(folder)


def by_deepspeed(lab: SlurmLab, folder: Path) -> None:
    doors.finish(lab, "deepspeed", folder, LAYOUT, ["--resume", str(folder / "run")])


def check(folder: Path, uninterrupted: list[dict[str, Any]]) -> None:
    found = numbers(folder / "run")
    for own, other in zip(found, uninterrupted, strict=False):
        assert own == other, f"step {own['step']} of {own} is not {other}"
    assert len(found) == len(uninterrupted)
    assert (folder / "run" / "finished.json").is_file()


@pytest.mark.parametrize(
    ("how", "goes_on"),
    [
        ("scancel", by_sbatch),
        ("kill", by_deepspeed),
        pytest.param("kill", by_sbatch, marks=pytest.mark.matrix),
        pytest.param("scancel", by_deepspeed, marks=pytest.mark.matrix),
    ],
)
def test_a_stopped_job_goes_on_exactly(  # type: ignore[no-untyped-def]
    lab: SlurmLab, tmp_path: Path, data: Path, uninterrupted, how, goes_on
) -> None:
    stopped(lab, tmp_path, data, how)
    assert len(numbers(tmp_path / "run")) < STEPS, "the run had ended before it was stopped"
    goes_on(lab, tmp_path)
    check(tmp_path, uninterrupted)
    resumed = (tmp_path / "run" / "logs" / "rank_00001.log").read_text()
    assert resumed.count("─── rank 1 of 2 on n2") == 2


def test_a_requeued_job_goes_on_exactly(  # type: ignore[no-untyped-def]
    lab: SlurmLab, tmp_path: Path, data: Path, uninterrupted
) -> None:
    """One job, one number; its script finds the run and resumes it."""
    job = doors.submit(lab, tmp_path, LAYOUT, "ss_vae", *submitted(tmp_path, data))
    doors.wait_for_step(lab, tmp_path, STOP_AT, 2)
    lab.run(["scontrol", "requeue", job])
    assert ended(lab, job) == "COMPLETED", doors.said(tmp_path)
    assert f"resuming {tmp_path / 'run'} from step_" in (tmp_path / "log").read_text()
    check(tmp_path, uninterrupted)

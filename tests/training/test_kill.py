"""kill -9 at any moment: the resumed run continues with losses equal to the last bit.

Victims are rank 0, rank 1 and the launcher; some strikes fall inside a checkpoint write that one
rank makes slow. After each resume the journal must hold every step once, with the losses of an
uninterrupted run, and each epoch must have seen every sample exactly once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.training import runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

STEPS = 40
EVERY = 8  # steps between checkpoints: a multiple of neither epoch nor batch
# (victim, moment, launcher)
STRIKES = [
    ("rank 0", "anywhere", "torchrun"),
    ("rank 1", "saving", "torchrun"),
    ("launcher", "saving", "torchrun"),
    ("rank 1", "anywhere", "mpirun"),
    ("launcher", "anywhere", "deepspeed"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Losses of an undisturbed two-rank run, per ZeRO stage, computed on first use."""
    known: dict[int, dict[int, str]] = {}

    def losses(stage: int) -> dict[int, str]:
        if stage not in known:
            folder = tmp_path_factory.mktemp(f"undisturbed{stage}")
            code = runs.finish("torchrun", 2, fresh(folder, data, stage), folder / "log")
            assert code == 0, (folder / "log").read_text()[-3000:]
            known[stage] = runs.losses(folder / "run")
        return known[stage]

    return losses


def fresh(folder: Path, data: Path, stage: int) -> list[str]:
    return ["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={data}",
            *runs.stage_overrides(stage), f"train.steps={STEPS}",
            f"train.checkpoint_every={EVERY}"]  # fmt: skip


def strike(folder: Path, data: Path, stage: int, number: int) -> str:
    """Start a run, kill one of its processes at the moment, and wait until all have ended.

    Returns the launcher.
    """
    victim, moment, launcher = STRIKES[number]
    run, chance = folder / "run", random.Random(10 * stage + number)
    slow = {"SLOW_RANK": str(0 if stage == 0 else chance.randrange(2)), "SLOW_SECONDS": "1.5"}
    process = runs.start(
        launcher, 2, fresh(folder, data, stage), folder / "log",
        runs.SLOW_TRAIN if moment == "saving" else runs.TRAIN, slow,
    )  # fmt: skip
    try:
        ranks = runs.rank_pids(process, 2)
        checkpoints = run / "checkpoints"
        first = checkpoints / f"step_{EVERY:08d}"
        runs.wait_until(first.is_dir, process)
        if moment == "saving":
            runs.wait_until(lambda: any(checkpoints.glob(".step_*.tmp/slow_rank_*")), process)
            time.sleep(chance.uniform(0, 0.9))
        else:
            target = EVERY + chance.randrange(1, STEPS - EVERY - 4)
            runs.wait_until(lambda: len(runs.records(run)) >= target, process)
        pid = {"rank 0": ranks[0], "rank 1": ranks[1], "launcher": process.pid}[victim]
        runs.kill(pid)
        struck = time.monotonic()
        inside_a_write = any(checkpoints.glob(".step_*.tmp"))
        survivors = [*ranks, process.pid]
        if victim == "launcher":  # its ranks have to notice by themselves
            process.wait()
            while any(alive(one) for one in ranks):
                assert time.monotonic() - struck < 10, "orphans lived on"
                time.sleep(0.05)
        else:
            process.wait(60)
        assert not any(alive(one) for one in survivors if one != process.pid)
    finally:
        runs.end(process)
    if moment == "saving":
        assert inside_a_write, "the kill did not fall into a write"
        assert list(checkpoints.glob(".step_*.tmp")), "the write was finished after the kill"
    return launcher


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except OSError:
        return False


def check(folder: Path, launcher: str, expected: dict[int, str]) -> None:
    """Resume to the end and compare with the undisturbed run."""
    run = folder / "run"
    code = runs.finish(launcher, 2, ["--resume", str(run)], folder / "log")
    assert code == 0, (folder / "log").read_text()[-3000:]
    records = runs.records(run)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert runs.losses(run) == expected
    seen: dict[int, Counter[str]] = {}
    for record in records:
        seen.setdefault(int(record["epoch"]), Counter()).update(record["samples"])  # type: ignore[call-overload, arg-type]
    names = set(seen[0])
    assert len(names) == runs.SAMPLES
    for epoch in range(max(seen)):  # the last epoch may be cut by train.steps
        assert seen[epoch] == Counter(names), f"epoch {epoch}"


QUICK = [(0, 1), (2, 2)]  # (stage, number of the strike)
ALL = [(stage, number) for stage in range(4) for number in range(len(STRIKES))]


@pytest.mark.parametrize(("stage", "number"), QUICK)
def test_killed_run_continues_bitwise(tmp_path, data, uninterrupted, stage, number) -> None:  # type: ignore[no-untyped-def]
    launcher = strike(tmp_path, data, stage, number)
    check(tmp_path, launcher, uninterrupted(stage))


@pytest.mark.long
@pytest.mark.parametrize(("stage", "number"), [case for case in ALL if case not in QUICK])
def test_every_stage_and_victim(tmp_path, data, uninterrupted, stage, number) -> None:  # type: ignore[no-untyped-def]
    launcher = strike(tmp_path, data, stage, number)
    check(tmp_path, launcher, uninterrupted(stage))

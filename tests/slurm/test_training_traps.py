"""`launch --with deepspeed` over real ssh: what dies, who notices, and that nothing is left.

DeepSpeed's own command says 0 when its child was killed, stops ranks on one node only, and leaves
all of them alone when it is killed itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import doors
from tests.slurm.lab import SlurmLab
from tests.training import runs

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(300)]

STEPS = 5000  # never reached
SECONDS = 60  # from the strike until the launch has ended and nothing is left


def launched(
    lab: SlurmLab, folder: Path, data: Path, launcher: str = "deepspeed"
) -> tuple[subprocess.Popen[bytes], dict[int, int]]:
    """A run of one rank on n1 and one on n2, launched from the head; its ranks' processes."""
    hosts = doors.hostfile(folder, (1, 1))
    line = [sys.executable, "-m", "threed_gen.cli", "launch", str(runs.TINY)]
    line += ["--out", str(folder / "run"), "--nodes", "2", "--gpus", "1", "--with", launcher]
    line += ["--hostfile", str(hosts), f"data.path={data}", f"train.steps={STEPS}", doors.PATIENT]
    process = doors.start_on(lab, "head", folder, line)
    return process, doors.wait_for_step(lab, folder, 2, 2)


def nothing_left(lab: SlurmLab, process: subprocess.Popen[bytes], since: float) -> int:
    """The launch's exit code, when no process is left soon enough."""
    code = process.wait(SECONDS)
    assert lab.strangers() == []
    assert time.monotonic() - since < SECONDS
    return code


def test_code_0_of_deepspeed_is_no_success(lab: SlurmLab, tmp_path: Path, data: Path) -> None:
    """Its child, pdsh, is killed: it says 0, and the ranks on both nodes would live on."""
    process, _ = launched(lab, tmp_path, data)
    (pdsh,) = lab.called("pdsh", "-S")
    struck = time.monotonic()
    doors.kill(pdsh)
    assert nothing_left(lab, process, struck) == 2
    said = doors.said(tmp_path)
    assert "deepspeed ended with code 0, but the run is not finished; see" in said
    assert f"`threed-gen launch {tmp_path / 'run'} …` goes on" in said
    for node in ("n1", "n2"):
        assert f"{node}: ended " in said


def test_a_rank_that_waits_for_a_dead_one_is_ended(
    lab: SlurmLab, tmp_path: Path, data: Path
) -> None:
    """Rank 0 cannot notice that rank 1 is gone: it is stopped, as if it hung in the network."""
    process, ranks = launched(lab, tmp_path, data)
    struck = time.monotonic()
    os.kill(ranks[0], signal.SIGSTOP)
    doors.kill(ranks[1])
    assert nothing_left(lab, process, struck) == 2
    assert "ranks on n2 are gone: ended all ranks" in doors.said(tmp_path)
    log = (tmp_path / "run" / "launch" / "deepspeed-0.log").read_text()
    assert "step    2/5000" in log and "ranks on n2 are gone" in log


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("deepspeed", signal.SIGUSR1),
        *(
            pytest.param(launcher, number, marks=pytest.mark.matrix)
            for launcher in ("deepspeed", "mpirun")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
            if (launcher, number) != ("deepspeed", signal.SIGUSR1)
        ),
    ],
)
def test_a_signal_ends_all_ranks(
    lab: SlurmLab, tmp_path: Path, data: Path, launcher: str, number: signal.Signals
) -> None:
    process, _ = launched(lab, tmp_path, data, launcher=launcher)
    (launch,) = lab.called("threed_gen.cli", "launch")
    struck = time.monotonic()
    doors.kill(launch, number)
    assert nothing_left(lab, process, struck) == 128 + number
    assert f"stopped by {number.name}, no rank is left" in doors.said(tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("victim", ["deepspeed", "deepspeed.launcher.launch", "threed_gen.cli"])
def test_whatever_is_killed(lab: SlurmLab, tmp_path: Path, data: Path, victim: str) -> None:
    """The command itself, what it starts on n2, and the launch around it."""
    process, _ = launched(lab, tmp_path, data)
    struck = time.monotonic()
    doors.kill(lab.called(victim)[-1])
    if victim != "threed_gen.cli":
        assert nothing_left(lab, process, struck) == 2
        assert "but the run is not finished" in doors.said(tmp_path)
        return
    process.wait()  # nobody is there to end the ranks: they notice that nobody hears them
    while lab.strangers():
        assert time.monotonic() - struck < SECONDS, lab.strangers()
        time.sleep(0.2)


def test_a_second_start_into_the_same_run(lab: SlurmLab, tmp_path: Path, data: Path) -> None:
    """By launch and past it: one line, nothing begun, and the first goes on."""
    process, ranks = launched(lab, tmp_path, data)
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    again = [sys.executable, "-m", "threed_gen.cli", "launch", str(run), "--nodes", "1", "--gpus",
             "1", "--with", "deepspeed"]  # fmt: skip
    done = lab.run(again, check=False, cwd=runs.ROOT, env=runs.environment())
    assert done.returncode == 2
    assert f"{run}: another `threed-gen launch` is at work here" in done.stderr
    assert done.stderr.count("\n") == 1
    new = ["--config", str(runs.TINY), "--out", str(run), f"data.path={data}"]
    (second,) = doors.start(lab, "python", other, (1,), new)
    assert second.wait(doors.SECONDS) == 2
    assert doors.said(other) == (
        f"threed-gen: error: {run}: already holds a run; go on with 'threed-gen resume {run}' or "
        "choose another --out\n"
    )
    assert doors.ranks_of(lab, run) == ranks, "the first one was disturbed"
    doors.kill(lab.called("threed_gen.cli", "launch")[0], signal.SIGTERM)
    assert process.wait(SECONDS) == 128 + signal.SIGTERM

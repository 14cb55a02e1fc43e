"""Talking to Slurm, with stand-ins that say what Slurm 22.05 says; tests/slurm has the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import slurm
from launcher.errors import LaunchError
from tests.launcher.programs import Programs

RUNNING = (
    "JobId=7 JobName=big UserId=root(0) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 "
    "Restarts=1 BatchFlag=1 ExitCode=0:0 RunTime=00:01:02 NodeList=n[1-4] BatchHost=n1 Comment=a=b"
)
PENDING = RUNNING.replace("RUNNING Reason=None", "PENDING Reason=Resources").replace(
    "NodeList=n[1-4]", "NodeList=(null)"
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path, monkeypatch)


def test_without_slurm_it_says_so(programs: Programs) -> None:
    for action in (slurm.require, lambda: slurm.submit(Path("x"))):
        with pytest.raises(LaunchError, match="no Slurm on this machine"):
            action()


def test_submit_gives_the_number(programs: Programs) -> None:
    programs.add("scontrol")
    programs.add("sbatch", out="4711;lab")
    assert slurm.submit(Path("job.sbatch")) == 4711
    assert programs.calls("sbatch") == ["--parsable job.sbatch"]


def test_a_job_inherits_nothing_of_the_job_it_is_submitted_from(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.add("scontrol")
    programs.add("sbatch", out="8", then=f"/usr/bin/env > {tmp_path}/seen")
    for name in ("SLURM_NTASKS", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    slurm.submit(Path("job.sbatch"))
    seen = (tmp_path / "seen").read_text()
    assert "SLURM_CONF=x" in seen and "SBATCH_ACCOUNT=x" in seen
    assert "SLURM_NTASKS" not in seen


def test_an_unknown_partition_is_named_with_those_that_exist(programs: Programs) -> None:
    programs.add("scontrol")
    programs.add("sinfo", out="gpu\ncpu\ngpu")
    programs.add(
        "sbatch",
        err="sbatch: error: invalid partition specified: gpus\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        code=1,
    )
    with pytest.raises(LaunchError, match=r"no such partition \(known: cpu, gpu\); set 'partit"):
        slurm.submit(Path("job.sbatch"))


def test_other_refusals_are_passed_on(programs: Programs) -> None:
    programs.add("scontrol")
    programs.add("sbatch", err="sbatch: error: Batch job submission failed: Too big", code=1)
    with pytest.raises(LaunchError, match="refused the script: Batch job submission failed: Too"):
        slurm.test_only("#!/bin/bash\n")
    programs.add("sbatch", err="sbatch: Job 9 to start at 12:00 on nodes n[1-2]\n")
    assert slurm.test_only("#!/bin/bash\n") == "Job 9 to start at 12:00 on nodes n[1-2]"


def test_states() -> None:
    running = slurm.parse_state(7, RUNNING)
    assert (running.state, running.nodes, running.restarts) == ("RUNNING", "n[1-4]", 1)
    assert running.told() == "RUNNING on n[1-4], start 2"
    pending = slurm.parse_state(7, PENDING)
    assert (pending.told(), pending.ended) == ("PENDING (Resources)", False)
    hopeless = slurm.parse_state(7, PENDING.replace("=Resources", "=PartitionNodeLimit"))
    assert hopeless.told() == "PENDING (PartitionNodeLimit, and would for ever: scancel 7)"
    for state in ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED"):
        assert slurm.parse_state(7, RUNNING.replace("RUNNING", state)).ended
    for state in ("COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"):
        assert not slurm.parse_state(7, RUNNING.replace("RUNNING", state)).ended
    killed = RUNNING.replace("ExitCode=0:0", "ExitCode=0:9")
    assert slurm.parse_state(7, killed).exit_code == 137
    with pytest.raises(LaunchError, match="does not say how"):
        slurm.parse_state(7, "")


def test_a_forgotten_job_is_over(programs: Programs) -> None:
    programs.add("scontrol", err="slurm_load_jobs error: Invalid job id specified", code=1)
    assert slurm.state(7).ended
    programs.add("scontrol", err="slurm_load_jobs error: Unable to contact controller", code=1)
    with pytest.raises(LaunchError, match="Unable to contact"):
        slurm.state(7)


def test_requeue(programs: Programs) -> None:
    programs.add("scontrol")
    slurm.requeue(7)
    assert programs.calls("scontrol") == ["requeue 7"]
    programs.add("scontrol", err="Job has already finished for job 7", code=1)
    with pytest.raises(LaunchError, match="requeue 7: Job has already"):
        slurm.requeue(7)

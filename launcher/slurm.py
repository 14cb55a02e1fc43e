"""Talking to Slurm: submit, ask how a job is, requeue. Works without `sacct`.

Many clusters keep no accounting, so the state comes from `scontrol`, which knows a job until some
minutes after its end. `sbatch --wait` is never used: it looks ever more seldom, and learns of the
end of a 12 s job after 40 s.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LaunchError

# States in which a job is over; all others may still change.
ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE", "PREEMPTED", "REVOKED", "UNKNOWN",
}  # fmt: skip
# Reasons for which a job waits for ever, as long as nobody changes it or the cluster.
FOR_EVER = {
    "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "DependencyNeverSatisfied",
    "InvalidAccount", "InvalidQOS", "JobHeldUser", "JobHeldAdmin", "QOSTimeLimit",
}  # fmt: skip
SECONDS = 60  # a controller that does not answer within this time is an error


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    job: int
    state: str  # PENDING, RUNNING, COMPLETED …; UNKNOWN when Slurm has forgotten it
    reason: str  # why it waits
    nodes: str  # in Slurm's short form; empty while it waits
    exit_code: int
    restarts: int

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def told(self) -> str:
        """For people: `RUNNING on n[1-4]`, `PENDING (Resources)`."""
        if self.state == "RUNNING":
            again = f", start {self.restarts + 1}" if self.restarts else ""
            return f"RUNNING on {self.nodes}{again}"
        if self.state == "PENDING":
            hopeless = f", and would for ever: scancel {self.job}" * (self.reason in FOR_EVER)
            return f"PENDING ({self.reason}{hopeless})"
        return self.state


def require() -> None:
    """LaunchError when this machine has no Slurm."""
    missing = [name for name in ("sbatch", "scontrol") if shutil.which(name) is None]
    if missing:
        raise LaunchError(
            f"no Slurm on this machine ({' and '.join(missing)} not found): log in to a node that "
            "has it, or launch --with deepspeed, mpirun or torchrun"
        )


def submit(script: Path) -> int:
    """`sbatch` a script; the job's number."""
    require()
    done = _run(["sbatch", "--parsable", str(script)])
    match = re.match(r"(\d+)", done.stdout)
    if done.returncode != 0 or match is None:
        raise _refused(done)
    return int(match[1])


def test_only(text: str) -> str:
    """When and where Slurm would run a script, in its own words; submits nothing."""
    require()
    done = _run(["sbatch", "--test-only"], text)
    if done.returncode != 0:
        raise _refused(done)
    return _last_line(done.stderr).removeprefix("sbatch: ")


def state(job: int) -> JobState:
    """How a job is now."""
    done = _run(["scontrol", "--oneliner", "show", "job", str(job)])
    if done.returncode != 0:
        text = done.stdout + done.stderr
        if "Invalid job id" in text:  # forgotten, minutes after its end
            return JobState(job, "UNKNOWN", "", "", 0, 0)
        raise LaunchError(f"scontrol show job {job}: {_last_line(text)}")
    return parse_state(job, done.stdout)


def parse_state(job: int, line: str) -> JobState:
    """One line of `scontrol --oneliner show job`. An array gives several; the first counts."""
    fields = dict(re.findall(r"(\w+)=(\S*)", line.splitlines()[0] if line.strip() else ""))
    if "JobState" not in fields:
        raise LaunchError(f"scontrol show job {job}: does not say how the job is: {line[:100]!r}")
    nodes = fields.get("NodeList", "")
    code, _, signal = fields.get("ExitCode", "0:0").partition(":")
    return JobState(
        job, fields["JobState"], fields.get("Reason", ""), "" if nodes == "(null)" else nodes,
        128 + int(signal) if signal not in ("", "0") else int(code),
        int(fields.get("Restarts", "0")),
    )  # fmt: skip


def requeue(job: int) -> None:
    """Stop a job and put it back into the queue; its script says how it goes on."""
    done = _run(["scontrol", "requeue", str(job)])
    if done.returncode != 0:
        raise LaunchError(f"scontrol requeue {job}: {_last_line(done.stdout + done.stderr)}")


def partitions() -> list[str]:
    """Names of the partitions; empty when Slurm does not tell."""
    done = _run(["sinfo", "--noheader", "--format=%R"])
    return sorted(set(done.stdout.split())) if done.returncode == 0 else []


def _refused(done: subprocess.CompletedProcess[str]) -> LaunchError:
    said = _last_line(done.stderr).removeprefix("sbatch: error: ")
    if "invalid partition" in done.stderr.lower():
        said = "there is no such partition"
        if known := partitions():
            said += f" (known: {', '.join(known)})"
        return LaunchError(f"sbatch: {said}; set 'partition' in the file of --site")
    return LaunchError(f"sbatch refused the script: {said}")


def _run(words: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    # From inside another job: sbatch would hand that job's SLURM_… on to the new one.
    kept = {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith("SLURM_")}
    try:
        return subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=SECONDS, env=kept
        )
    except FileNotFoundError:
        raise LaunchError(f"{words[0]}: not found; this machine has no Slurm") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{words[0]}: Slurm's controller did not answer within {SECONDS} s; try again later"
        ) from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"

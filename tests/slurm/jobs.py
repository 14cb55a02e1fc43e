"""Jobs of the test cluster: their scripts and their ends."""

from __future__ import annotations

import time
from pathlib import Path

from tests.slurm.lab import SlurmLab

SECONDS = 100.0  # for a run of some ranks, on two cores


def script(path: Path, *lines: str) -> str:
    """Write a batch script; its path."""
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return str(path)


def ended(lab: SlurmLab, job: str) -> str:
    """Wait for the end of a job; its state."""
    deadline = time.monotonic() + SECONDS
    while True:
        line = lab.run(["scontrol", "--oneliner", "show", "job", job]).stdout
        state = line.split("JobState=")[1].split()[0]
        if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"):
            return state
        assert time.monotonic() < deadline, f"job {job} is still {state}:\n{line}"
        time.sleep(0.1)

"""A rank whose launcher was killed ends by itself; a rank without a launcher is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import orphan

CHILD = """
import time
from launcher import orphan
print(len(orphan.watch(75, 0.1)), flush=True)
time.sleep(60)
"""


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0]
    except OSError:
        return "gone"


def start(tmp_path: Path, name: str) -> tuple[subprocess.Popen[str], int]:
    """A parent program called `name` with one watching child; returns the parent, child pid."""
    parent = tmp_path / name
    parent.write_text(
        "import subprocess, sys\n"
        f"command = [sys.executable, '-c', {CHILD!r}]\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline().strip(), flush=True)\n"
        "child.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(parent)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    pid, _watched = process.stdout.readline().split()
    return process, int(pid)


def test_child_ends_after_its_launcher_was_killed(tmp_path: Path) -> None:
    process, child = start(tmp_path, "torchrun")
    assert state(child) in "SR"
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while state(child) in "SRD" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(child) in ("gone", "Z")


def test_a_plain_parent_may_go(tmp_path: Path) -> None:
    process, child = start(tmp_path, "someshell")
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    assert state(child) in "SR"
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("/venv/bin/python /venv/bin/torchrun --nproc-per-node 2 train.py", "torchrun"),
        ("python3.11 -u -m deepspeed.launcher.launch --world_info=x", "deepspeed.launcher.launch"),
        ("mpirun -n 2 python train.py", "mpirun"),
        ("/bin/bash -c cd threed-gen && deepspeed train.py", "bash"),
        ("code /home/someone/threed-gen", "code"),
        ("python", "python"),
        ("", ""),
    ],
)
def test_only_the_program_counts_and_not_its_arguments(line: str, program: str) -> None:
    assert orphan._program(line.split()) == program

"""Journals lose nothing that counts, locks keep others out, files are whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.training.run_dir import Journal, RunDir, RunLock, read_journal


def test_rolled_back_steps_and_a_torn_line_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    losses = [0.1 + 1 / (3 + step) for step in range(6)]
    for step, loss in enumerate(losses, start=1):
        journal.append({"step": step, "loss": loss})
    with journal.path.open("ab") as file:
        file.write(b'{"step": 7, "lo')
    assert journal.truncate_after(4) == 3
    assert [r["loss"] for r in read_journal(journal.path)] == losses[:4]  # bit for bit
    journal.append({"step": 5, "loss": 1.0})
    assert [r["step"] for r in read_journal(journal.path)] == [1, 2, 3, 4, 5]


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    Journal(path).truncate_after(2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"line 2"):
        Journal(path).truncate_after(3)


def test_not_finite_numbers_never_enter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Journal(tmp_path / "m.jsonl").append({"step": 1, "loss": float("nan")})


def test_write_atomic_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old", "a file")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from threed_gen.files import write_atomically\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"write_atomically(Path({str(path)!r}), b'x' * 1000, 'a file')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DiskError" in run.stderr
    assert str(path) in run.stderr
    assert path.read_bytes() == b"old"


def test_new_and_existing_directories(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(UserError, match="not a run directory"):
        run.require()
    run.create()
    run.config.write_text("task: ss_vae\n")
    run.require()
    with pytest.raises(UserError, match="already holds a run"):
        run.create()


HOLD = """
import sys, time
from pathlib import Path
from threed_gen.training.run_dir import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire(0.0) if sys.argv[2] == "first" else lock.share()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("role", ["first", "other"])
def test_lock_is_held_by_any_rank_and_freed_by_a_kill(tmp_path: Path, role: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), role], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match="in use by another process"):
        lock.acquire(0.3)
    lock.release()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock.acquire(2.0)
    lock.release()

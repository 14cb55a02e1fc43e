"""A launcher and what it starts are ended together, however the end comes. Bash plays it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launcher import leftovers
from launcher import supervise as module
from launcher.leftovers import MARK, end_leftovers, new_mark
from launcher.supervise import Stopped, supervise

ROOT = Path(__file__).resolve().parents[2]


def marked() -> dict[str, str]:
    return {**os.environ, MARK: new_mark()}


def carriers(environ: dict[str, str]) -> list[str]:
    """Processes with the mark."""
    mark = f"{MARK}={environ[MARK]}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def sleeper(environ: dict[str, str]) -> int:
    """A process that carries the mark already, as one does only once it has become `sleep`."""
    process = os.spawnvpe(os.P_NOWAIT, "sleep", ["sleep", "30"], environ)
    while not carriers(environ):
        time.sleep(0.01)
    return process


def run(script: str, environ: dict[str, str]) -> tuple[int, list[str]]:
    said: list[str] = []
    code = supervise(["bash", "-c", script], environ, None, said.append)
    assert carriers(environ) == []
    return code, said


def test_lines_and_code_are_passed_on() -> None:
    assert run("echo a; echo b >&2; exit 5", marked()) == (5, ["a", "b"])
    assert run("kill -9 $$", marked())[0] == 137


def test_what_a_launcher_leaves_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what has a session of its own and does not listen to SIGTERM."""
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 1)
    left = "setsid bash -c 'trap \"\" TERM; while true; do sleep 0.1; done' & sleep 0.2; exit 0"
    code, said = run(left, marked())
    assert code == 0
    assert said[-1].startswith("this machine: ended ")


def test_other_launches_are_left_alone() -> None:
    environ, other = marked(), marked()
    process = sleeper(other)
    try:
        run("true", environ)
        assert carriers(other) == [str(process)]
    finally:
        assert end_leftovers(other[MARK], None) == ({"this machine": 1}, [])
        os.waitpid(process, 0)


def test_killed_outright_it_takes_the_launcher_along() -> None:
    """Nobody is left to ask for leftovers: the launcher itself is told, and ends its ranks."""
    environ = marked()
    launcher = "trap 'kill %1; exit 1' TERM; sleep 30 & echo up; wait"
    program = (
        "import os; from launcher.supervise import supervise\n"
        f"supervise(['bash', '-c', {launcher!r}], os.environ, None, lambda s: print(s, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environ, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    assert len(carriers(environ)) == 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while carriers(environ):
        assert time.monotonic() < deadline, "the launcher lives on"
        time.sleep(0.05)


def test_a_signal_ends_all_and_comes_back() -> None:
    environ, before = marked(), signal.getsignal(signal.SIGUSR1)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1])
    timer.start()
    with pytest.raises(Stopped, match="stopped by SIGUSR1"):
        run("sleep 30 & wait", environ)
    assert carriers(environ) == []
    assert signal.getsignal(signal.SIGUSR1) == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(f"kill -HUP {os.getpid()}; sleep 0.2; exit 4", marked()) == (4, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_survivors_on_other_hosts_have_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SURVIVOR_SECONDS", 0.3)
    code, said = run("echo 'pdsh@head: n2: ssh exited with exit code 247'; sleep 30", marked())
    assert code == 143
    assert said[1].startswith("ranks on n2 are gone: ended all ranks")
    fine = "echo 'pdsh@head: n2: ssh exited with exit code 0'; sleep 0.6; exit 3"
    assert run(fine, marked())[0] == 3


def test_an_output_that_cannot_be_written_ends_it() -> None:
    environ = marked()

    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        supervise(["bash", "-c", "echo a; sleep 30"], environ, None, full)
    assert carriers(environ) == []


def test_hosts_that_cannot_be_asked_are_named(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """ssh is a stand-in here; tests/slurm has real hosts."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/bash\n[ "$5" = n1 ] || exit 255\nexec sh -s\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environ = marked()
    process = sleeper(environ)
    assert end_leftovers(environ[MARK], ["n1", "n2"]) == ({"n1": 1}, ["n2"])
    os.waitpid(process, 0)

"""End a rank whose launcher has died.

When the `deepspeed` command, `torchrun` or `mpirun` is killed outright, its ranks live on without
anybody who could stop or see them, and they keep the run's lock. `watch` remembers the launchers
among this process's ancestors at the start and checks five times a second that each of them still
lives; when one is gone, the process leaves at once, without writing anything more.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

# Programs and modules that start and own ranks.
LAUNCHERS = {"deepspeed", "torchrun", "mpirun", "mpiexec", "orterun", "prterun", "prted", "orted",
             "threed-gen"}  # fmt: skip
LAUNCHER_PREFIXES = ("torch.distributed", "deepspeed.launcher", "slurmstepd")
Process = tuple[int, int]  # pid and start time: a pid alone can be reused


def launchers(proc: Path = Path("/proc")) -> list[Process]:
    """The ancestors of this process that are launchers, nearest first (empty without /proc)."""
    found: list[Process] = []
    pid = os.getppid()
    while pid > 1:
        stat = _stat(pid, proc)
        if stat is None:
            break
        parent, start = stat
        program = _program(_command(pid, proc))
        if program in LAUNCHERS or program.startswith(LAUNCHER_PREFIXES):
            found.append((pid, start))
        pid = parent
    return found


def watch(exit_code: int, interval: float = 0.2, proc: Path = Path("/proc")) -> list[Process]:
    """Start the watching thread; returns the launchers it watches (none: no thread)."""
    ancestors = launchers(proc)
    if ancestors:
        thread = threading.Thread(
            target=_loop, args=(ancestors, exit_code, interval, proc), daemon=True, name="orphan"
        )
        thread.start()
    return ancestors


def _loop(ancestors: list[Process], exit_code: int, interval: float, proc: Path) -> None:
    while True:
        for pid, start in ancestors:
            stat = _stat(pid, proc)
            if stat is None or stat[1] != start:
                line = f"threed-gen: the launcher (process {pid}) is gone; this rank ends itself\n"
                try:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                finally:
                    os._exit(exit_code)  # no exit handlers: they could wait for other ranks
        time.sleep(interval)


def _stat(pid: int, proc: Path) -> tuple[int, int] | None:
    """Parent pid and start time of a living process; None when it is gone or a zombie."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rsplit(")", 1)[-1].split()  # the name in parentheses may hold anything
    state, parent, start = fields[0], int(fields[1]), int(fields[19])
    return None if state in "ZX" else (parent, start)


def _program(words: list[str]) -> str:
    """What runs: the script or module behind a Python interpreter, else the program itself."""
    if not words:
        return ""
    name = Path(words[0]).name
    if not name.startswith("python"):
        return name
    for number, word in enumerate(words[1:], start=1):
        if word == "-m":
            return words[number + 1] if number + 1 < len(words) else ""
        if not word.startswith("-"):
            return Path(word).name
    return name


def _command(pid: int, proc: Path) -> list[str]:
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]

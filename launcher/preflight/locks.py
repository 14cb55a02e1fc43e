"""Locks that a killed compilation has left: every later run waits for them, for ever, silently.

PyTorch builds extensions (DeepSpeed's among them) behind a file called `lock`, which the building
process keeps open; Triton's cache may hold such files too. A lock that no process of any node has
open belongs to nobody. The folder may be shared with nodes outside of this job, so a young lock,
or one that another node has open, is only noted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of

YOUNG_SECONDS = 600.0  # longer than any of our extensions takes to build


@dataclass(frozen=True)
class Lock:
    """A lock file: how old it is, and whether a process of this machine has it open."""

    path: Path
    inode: int
    seconds: float
    held: bool


def folders(environ: Mapping[str, str]) -> list[Path]:
    """Where compilers keep what they have built."""
    home = Path(environ.get("HOME", "~")).expanduser()
    return [
        Path(environ.get("TORCH_EXTENSIONS_DIR") or home / ".cache" / "torch_extensions"),
        Path(environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
    ]


def locks(environ: Mapping[str, str]) -> list[Lock]:
    """All locks there, oldest first."""
    paths = []
    for folder in folders(environ):
        for here, _, files in os.walk(folder):
            paths += [Path(here, name) for name in files if name == "lock" or name[-5:] == ".lock"]
    held = _open_files() if paths else set()
    found = []
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:  # released meanwhile
            continue
        key = (state.st_dev, state.st_ino)
        found.append(Lock(path, state.st_ino, time.time() - state.st_mtime, key in held))
    return sorted(found, key=lambda lock: -lock.seconds)


def _open_files() -> set[tuple[int, int]]:
    """Device and inode of every file that this user's processes have open."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for link in folder.iterdir():
                state = link.stat()
                found.add((state.st_dev, state.st_ino))
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def look() -> Finding:
    """Locks of this node; who holds them is known only when all nodes have answered."""
    rows = [[str(lock.path), lock.inode, lock.seconds, lock.held] for lock in locks(os.environ)]
    return Finding("locks", "ok", facts={"locks": rows})


def compare(found: ByNode) -> Verdicts:
    """Old locks that nobody holds fail the node that sees them; a shared one its first node."""
    facts = {node: own["locks"] for node, own in facts_of(found, "locks").items()}
    held = {(path, inode) for own in facts.values() for path, inode, _, holds in own if holds}
    verdicts: Verdicts = []
    told: set[tuple[str, int]] = set()
    for node, own in facts.items():
        for path, inode, seconds, _ in own:
            if (path, inode) in told:  # a folder that nodes share
                continue
            told.add((path, inode))
            if (path, inode) in held or seconds < YOUNG_SECONDS:
                verdicts.append((node, Finding("locks", "note", "a build runs")))
                continue
            text = f"{path} was left by a build that is gone, {seconds / 60:.0f} min ago"
            verdicts.append((node, bad("locks", f"{text}, and every later one waits: rm {path}")))
    return verdicts

"""Disk: room, inodes and speed where a node writes: the run directory, the temporary one, /dev/shm.

A full temporary directory ends a job in the middle of its first checkpoint or compilation, and a
full /dev/shm the loader's workers. The write that is timed is small and goes to the disk (fsync).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from launcher.preflight.finding import Finding, bad

CHECKPOINT_BYTES = 2**30  # a run directory with less cannot keep the smallest checkpoint for sure
SCRATCH_BYTES = 2**28
INODES = 1000
PIECE = 4 * 2**20
PIECES = 8
SPEED_SECONDS = 2.0  # the write stops after the piece that passes this
SLOW = 5e6  # bytes/s


def look(run: Path) -> list[Finding]:
    """The places that this node writes to; `run` exists."""
    # Not tempfile's own choice: it passes over a full directory without a word.
    scratch = Path(os.environ.get("TMPDIR") or "/tmp")
    findings = [_place(run, "the run directory", CHECKPOINT_BYTES, timed=True)]
    findings.append(_place(scratch, "TMPDIR", SCRATCH_BYTES, timed=True))
    shm = Path("/dev/shm")
    if shm.is_dir():
        findings.append(_place(shm, "the loader's memory", SCRATCH_BYTES, timed=False))
    return findings


def _place(path: Path, what: str, needed: int, *, timed: bool) -> Finding:
    try:
        free, inodes, all_inodes = _room(path)
    except OSError as err:
        return bad("disk", f"{path} ({what}): {err.strerror}: mount it or choose another place")
    if free < needed:
        return bad(
            "disk", f"{path} ({what}) has {free / 2**20:.0f} MiB free, {needed / 2**20:.0f} are "
            "needed: free some space there",
        )  # fmt: skip
    if all_inodes and inodes < INODES:  # some file systems count none
        return bad(
            "disk", f"{path} ({what}) has {inodes} inodes left: delete small files there",
        )  # fmt: skip
    if not timed:
        return Finding("disk", "ok")
    try:
        speed = write_speed(path)
    except OSError as err:
        return bad("disk", f"cannot write to {path} ({what}): {err.strerror}: make it writable")
    text = f"{speed / 1e6:.0f} MB/s"
    if speed < SLOW:  # a note: on a shared disk all nodes write at this moment
        return Finding("disk", "note", f"{what}: {text}")
    return Finding("disk", "ok", text)


def _room(path: Path) -> tuple[int, int, int]:
    """Free bytes, free inodes and all inodes, for an ordinary user."""
    state = os.statvfs(path)
    return shutil.disk_usage(path).free, state.f_favail, state.f_files


def write_speed(folder: Path) -> float:
    """bytes/s of a file that is written to the disk and removed."""
    piece = os.urandom(PIECE)  # what does not compress
    with tempfile.TemporaryFile(dir=folder, prefix=".preflight-") as file:
        start = time.perf_counter()
        written = 0
        while written < PIECES * PIECE and time.perf_counter() - start < SPEED_SECONDS:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            written += PIECE
        return written / (time.perf_counter() - start)

"""The run directory: where everything of a run lies, its lock, and its journals.

    config.yaml  environment.json  metrics.jsonl  validation.jsonl  evaluation.json  finished.json
    checkpoints/step_00001000/  previews/  tensorboard/  logs/  report.html

A run is resumed from its directory alone. Journals (`*.jsonl`) are appended line by line; on
resume the lines of rolled-back steps and a torn last line are removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.errors import UserError, disk_errors
from threed_gen.files import sync_file, write_atomically


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        return self.root / "validation.jsonl"

    @property
    def warnings(self) -> Path:
        return self.root / "logs" / "warnings.jsonl"

    @property
    def finished(self) -> Path:
        return self.root / "finished.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def create(self) -> None:
        """Make the directory for a new run; refuses one that already holds a run."""
        if self.config.exists():
            raise UserError(
                f"{self.root}: already holds a run; go on with 'threed-gen resume {self.root}' "
                "or choose another --out"
            )
        with disk_errors(self.root, "the run directory"):
            for folder in (self.root, self.checkpoints, self.root / "logs"):
                folder.mkdir(parents=True, exist_ok=True)

    def require(self) -> None:
        """Check that this directory holds a run."""
        if not self.config.is_file():
            raise UserError(
                f"{self.root}: not a run directory (no config.yaml in it); start one with "
                f"'threed-gen train CONFIG --out {self.root}'"
            )


class RunLock:
    """Keeps a second process out of a run directory, and waits for orphans of the last one.

    Rank 0 holds `.lock` alone for as long as it lives; every other rank holds a share of
    `.lock.ranks`. A new run begins only when it has the first and nobody holds the second, so a
    rank that outlived its launcher is waited for. The operating system drops both at any end.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: list[int] = []

    def acquire(self, wait_seconds: float) -> None:
        """Rank 0; raises `UserError` when another process still runs here after waiting."""
        deadline = time.monotonic() + wait_seconds
        self._held.append(self._exclusive(".lock", deadline))
        os.close(self._exclusive(".lock.ranks", deadline))

    def share(self) -> None:
        """Every other rank, after rank 0 has acquired."""
        handle = self._open(".lock.ranks")
        fcntl.flock(handle, fcntl.LOCK_SH)
        self._held.append(handle)

    def release(self) -> None:
        """Let go of everything."""
        while self._held:
            os.close(self._held.pop())

    def _exclusive(self, name: str, deadline: float) -> int:
        handle = self._open(name)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError as err:
                if time.monotonic() >= deadline:
                    os.close(handle)
                    raise UserError(
                        f"{self._root}: in use by another process; wait for it to end, "
                        "or stop it, and run the same command again"
                    ) from err
            time.sleep(0.1)

    def _open(self, name: str) -> int:
        path = self._root / name
        with disk_errors(path, "the run's lock"):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


class Journal:
    """An append-only JSON-lines file whose lines carry a `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; a reader never sees half of an earlier one."""
        with disk_errors(self.path, "a line"), self.path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Force what was appended onto the disk (before a checkpoint counts on it)."""
        if self.path.exists():
            with disk_errors(self.path, "the journal"):
                sync_file(self.path)

    def truncate_after(self, step: int) -> int:
        """Keep the lines with `step <= step`; drop later ones and a torn last line.

        Returns:
            How many lines were dropped.
        """
        if not self.path.exists():
            return 0
        raw = self.path.read_bytes().split(b"\n")
        total = len([line for line in raw if line.strip()])
        kept = [
            json.dumps(record).encode() for record in read_journal(self.path, torn_ok=True)
            if record["step"] <= step
        ]  # fmt: skip
        write_atomically(self.path, b"".join(line + b"\n" for line in kept), "the journal")
        return total - len(kept)


def read_journal(path: Path, torn_ok: bool = False) -> Iterator[dict[str, Any]]:
    """The records of a journal; a torn last line is skipped if allowed, else an error."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as err:
            if torn_ok and number == len(lines):
                return
            raise UserError(
                f"{path}: line {number} is not valid JSON; delete that line and try again"
            ) from err
        yield record

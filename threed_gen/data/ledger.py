"""The ledger of `prepare`: one line per finished asset, appended and flushed, never rewritten.

A run that is killed at any moment loses at most the assets that were under way. The last line may
be torn by the kill; it is cut off when the ledger is opened again. The newest line of an asset
counts. Every line begins with a checksum of its text.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from threed_gen.errors import disk_errors


@dataclass(frozen=True)
class BuiltGrid:
    """A finished payload of one resolution."""

    size: int  # bytes
    sha256: str
    tokens: int
    voxels: int
    tau: float


@dataclass(frozen=True)
class Outcome:
    """What became of one asset: its grids, or the reason for its rejection."""

    source: str
    stamp: list[int]
    sha256: str  # of the source
    grids: dict[int, BuiltGrid] = field(default_factory=dict)
    reason: str | None = None  # short code; None for a success
    message: str = ""

    @property
    def ok(self) -> bool:
        """True when there are grids to pack."""
        return self.reason is None


class Ledger:
    """The outcomes so far, by source; `add` makes one durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if path.exists() else 0
        with disk_errors(path, "the ledger"):
            # Unbuffered: after a failed write nothing is left over that `close` would try again.
            self._file = path.open("ab", buffering=0)
            if self._file.tell() > whole:
                self._file.truncate(whole)

    def add(self, outcome: Outcome) -> None:
        """Append one outcome and wait until it is on the disk."""
        text = json.dumps(asdict(outcome), sort_keys=True, separators=(",", ":"))
        with disk_errors(self.path, "the ledger"):
            line = memoryview(f"{_check(text)} {text}\n".encode())
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        self.outcomes[outcome.source] = outcome

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> int:
        """Load the outcomes and return the length of the readable part of the file."""
        content = self.path.read_bytes()
        whole = 0
        for line in content.splitlines(keepends=True):
            outcome = _parse(line)
            if outcome is None:  # a torn or damaged line: what follows it is not trusted either
                break
            self.outcomes[outcome.source] = outcome
            whole += len(line)
        return whole


def _parse(line: bytes) -> Outcome | None:
    try:
        check, _, text = line.decode().partition(" ")
        if not text.endswith("\n") or check != _check(text[:-1]):
            return None
        row: dict[str, Any] = json.loads(text)
        grids = {int(key): BuiltGrid(**grid) for key, grid in row.pop("grids").items()}
        return Outcome(grids=grids, **row)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The ledgers of `prepare`: a line per outcome of an asset, appended and flushed, never rewritten.

A run that is killed at any moment loses at most the assets that were under way. The last line may
be torn by the kill; it is cut off when the ledger is opened again. Every line begins with a
checksum of its text.

Each rank appends to a file of its own and reads those of all. Of several lines about one asset the
one with the highest `serial` counts: a rank gives the next number after those that it has read, and
no two ranks are in charge of one asset at one time, so no clock has to be asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from threed_gen.data.ranks import Share
from threed_gen.errors import UserError, disk_errors

Status = Literal["ok", "reject", "failed"]


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
    """What became of one asset: its grids, or the reason why there are none."""

    source: str
    stamp: list[int]
    sha256: str  # of the source
    grids: dict[int, BuiltGrid] = field(default_factory=dict)
    status: Status = "ok"  # "failed" may go better another time, a reject will not
    reason: str | None = None  # short code; None for a success
    message: str = ""
    flags: tuple[str, ...] = ()  # what was found while reading the file
    info: dict[str, Any] = field(default_factory=dict)  # what was measured; goes to the index
    params: str = ""  # hash of the parameters
    attempts: int = 1
    serial: int = 1  # number of lines about this asset so far, in all ledgers
    seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def ok(self) -> bool:
        """True when there are grids to pack."""
        return self.status == "ok"


class Ledger:
    """The outcomes so far of all ranks, by source; `add` makes one durable in this rank's file."""

    def __init__(self, work: Path, share: Share, params: str) -> None:
        """Open this rank's ledger; outcomes of other parameters (a hash) are an error."""
        self.path, self.params = work / ledger_name(share), params
        self.outcomes: dict[str, Outcome] = {}
        self._read: dict[Path, int] = {}  # bytes of each ledger that have been read
        work.mkdir(parents=True, exist_ok=True)
        self.refresh()
        with disk_errors(self.path, "the ledger"):
            # Unbuffered: after a failed write nothing is left over that `close` would try again.
            self._file = self.path.open("ab", buffering=0)
            whole = self._read.get(self.path, 0)
            if self._file.tell() > whole:
                self._file.truncate(whole)

    def add(self, outcome: Outcome) -> Outcome:
        """Append one outcome and wait until it is on the disk; returns it with its number."""
        before = self.outcomes.get(outcome.source)
        serial = 1 if before is None else before.serial + 1
        outcome = replace(outcome, params=self.params, serial=serial)
        text = json.dumps(asdict(outcome), sort_keys=True, separators=(",", ":"))
        content = f"{_check(text)} {text}\n".encode()
        with disk_errors(self.path, "the ledger"):
            line = memoryview(content)
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        self._read[self.path] = self._read.get(self.path, 0) + len(content)
        self.outcomes[outcome.source] = outcome
        return outcome

    def refresh(self) -> None:
        """Read what all ranks have added since the last time."""
        for path in ledgers(self.path.parent):
            found, self._read[path] = read_ledger(path, self._read.get(path, 0))
            for outcome in found:
                if outcome.params != self.params:
                    raise UserError(
                        f"{path}: {outcome.source} was prepared with other parameters (hash "
                        f"{outcome.params or 'none'}, now {self.params}); choose another OUT, or "
                        "delete this one"
                    )
                keep_newest(self.outcomes, outcome)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def ledger_name(share: Share) -> str:
    """The file name of a rank's ledger."""
    return f"ledger.{share}.jsonl"


def ledgers(work: Path) -> list[Path]:
    """All ranks' ledgers, also those of earlier numbers of ranks."""
    return sorted(work.glob("ledger.*-of-*.jsonl"))


def read_ledger(path: Path, start: int = 0) -> tuple[list[Outcome], int]:
    """The outcomes from byte `start` on, and the length of the readable part of the file."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < start:  # another file than before
                start = 0
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    found = []
    for line in content.split(b"\n")[:-1]:
        outcome = _parse(line)
        if outcome is None:  # a torn or damaged line: what follows it is not trusted either
            break
        found.append(outcome)
        start += len(line) + 1
    return found, start


def keep_newest(outcomes: dict[str, Outcome], outcome: Outcome) -> None:
    """Enter an outcome, unless a newer one of its asset is there."""
    before = outcomes.get(outcome.source)
    if before is None or before.serial <= outcome.serial:
        outcomes[outcome.source] = outcome


_FIELDS = {field.name for field in fields(Outcome)}


def _parse(line: bytes) -> Outcome | None:
    try:
        check, _, text = line.decode().partition(" ")
        if check != _check(text):
            return None
        row: dict[str, Any] = json.loads(text)
        row["grids"] = {int(key): BuiltGrid(**grid) for key, grid in row["grids"].items()}
        row["flags"] = tuple(row["flags"])
        return Outcome(**{key: value for key, value in row.items() if key in _FIELDS})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

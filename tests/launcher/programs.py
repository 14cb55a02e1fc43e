"""Programs that stand in for others: they note how they were called and say what they are told."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest


class Programs:
    """A PATH that has only what a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bin, self._notes = folder / "bin", folder / "notes"
        self._bin.mkdir()
        self._notes.mkdir()
        monkeypatch.setenv("PATH", str(self._bin))

    def add(self, name: str, out: str = "", err: str = "", code: int = 0, then: str = "") -> None:
        """`name` prints `out` and `err`, runs the shell line `then`, and ends with `code`."""
        notes = shlex.quote(str(self._notes / name))
        lines = ["#!/bin/sh", f'echo "$*" >> {notes}', f"echo {shlex.quote(out)}"]
        lines += [f"echo {shlex.quote(err)} >&2"] * bool(err)
        program = self._bin / name
        program.write_text("\n".join([*lines, then, f"exit {code}", ""]))
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """The arguments of every call so far."""
        path = self._notes / name
        return path.read_text().splitlines() if path.exists() else []

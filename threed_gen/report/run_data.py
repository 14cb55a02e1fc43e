"""Reads whatever a run directory holds, without ever insisting on any of it.

A report is asked for while a run has just begun, is writing, was killed, or was copied half. So
every piece is optional; what is missing is empty, and what is damaged is named in `notes`, which
the page shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Record = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """The readable content of one run directory."""

    root: Path
    metrics: list[Record] = field(default_factory=list)
    validation: list[Record] = field(default_factory=list)
    warnings: list[Record] = field(default_factory=list)
    evaluation: Record = field(default_factory=dict)
    environment: Record = field(default_factory=dict)
    config_text: str = ""
    config: Record = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)  # against the parent config
    previews: list[tuple[int, Path]] = field(default_factory=list)  # by step
    step_meshes: list[tuple[int, Path]] = field(default_factory=list)  # by step
    data_sheet: Path | None = None
    finished: bool = False
    notes: list[str] = field(default_factory=list)  # what could not be read

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def meshes(self, shape: Record) -> dict[str, Path]:
        """Existing mesh files of an evaluated shape: "truth" and "reconstruction"."""
        folder = self.root / "evaluation"
        stem = Path(str(shape.get("files", shape.get("name", "")))).name  # stays in the folder
        paths = {role: folder / f"{stem}_{role}.ply" for role in ("truth", "reconstruction")}
        return {role: path for role, path in paths.items() if path.is_file()}


def read_run(root: Path) -> RunData:
    """Read the run directory `root`; never fails because a piece is missing or damaged."""
    notes: list[str] = []
    config_text = _text(root / "config.yaml", notes)
    try:
        config = yaml.safe_load(config_text) if config_text else {}
    except yaml.YAMLError:
        notes.append("config.yaml is not valid YAML")
        config = {}
    changes = _text(root / "config_changes.txt", notes)
    data_sheet = root / "previews" / "data.png"
    return RunData(
        root=root,
        metrics=_lines(root / "metrics.jsonl", notes),
        validation=_lines(root / "validation.jsonl", notes),
        warnings=_lines(root / "logs" / "warnings.jsonl", notes, need_step=False),
        evaluation=_object(root / "evaluation.json", notes),
        environment=_object(root / "environment.json", notes),
        config_text=config_text,
        config=config if isinstance(config, dict) else {},
        changes=[line for line in changes.splitlines() if line.strip()],
        previews=_previews(root / "previews", ".png"),
        step_meshes=_previews(root / "previews", ".npz"),
        data_sheet=data_sheet if data_sheet.is_file() else None,
        finished=(root / "finished.json").exists(),
        notes=notes,
    )


def _text(path: Path, notes: list[str]) -> str:
    if not path.is_file():
        return ""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        notes.append(f"{path.name} is not UTF-8 text; undecodable bytes are shown as �")
        return raw.decode("utf-8", errors="replace")


def _object(path: Path, notes: list[str]) -> Record:
    text = _text(path, notes)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        notes.append(f"{path.name} is not valid JSON")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds no JSON object")
        return {}
    return value


def _lines(path: Path, notes: list[str], need_step: bool = True) -> list[Record]:
    """Records of a journal; lines that are torn or foreign are counted in `notes`.

    Where a step appears twice (a run that was killed and resumed while nobody cleaned up), the
    later line counts.
    """
    records: list[Record] = []
    bad = 0
    lines = _text(path, notes).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):  # no newline behind it: the run is, or was, writing it
                notes.append(f"{path.name}: the last line is not complete yet and was left out")
            else:
                bad += 1
            continue
        if not isinstance(record, dict) or (need_step and not isinstance(record.get("step"), int)):
            bad += 1
            continue
        records.append(record)
    if bad:
        notes.append(f"{path.name}: {bad} unreadable line{'s' if bad > 1 else ''} left out")
    if not need_step:
        return records
    return [record for _, record in sorted({r["step"]: r for r in records}.items())]


def _previews(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob(f"step_*{suffix}") if folder.is_dir() else ():
        digits = path.stem.removeprefix("step_")
        if digits.isdigit():
            found.append((int(digits), path))
    return sorted(found)

"""What the columns of a table mean, whatever their names: one checked `Record` per row.

Understood are plain names (`uid`, `path`, `caption` …), those of TRELLIS-500K (`sha256`,
`file_identifier`, `aesthetic_score`, `captions`, `local_path`) and those of Objaverse++ (`UID`,
`score`, `is_scene` …). A column of any other name is kept as a tag where its cell holds one plain
value. docs/sources.md lists the names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threed_gen.data.source_kinds.tables import Row, read_table
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError

# What we call it: what tables call it, the best name first. Case, spaces and dashes do not matter.
COLUMNS = {
    "uid": ("uid", "id", "object_id", "asset_id"),
    "sha256": ("sha256", "file_sha256"),
    "path": ("path", "local_path", "file_path", "filepath", "file"),
    "identifier": ("file_identifier", "fileidentifier"),
    "caption": ("caption", "captions", "description", "text"),
    "licence": ("licence", "license"),
    "score": ("score", "aesthetic_score", "aesthetic"),
}
MAX_TEXT = 2000  # characters of a caption or another tag; what is longer is cut
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d{1,3})?")  # 007 is a name
_NOTHING = {"", "nan", "none", "null", "n/a"}


@dataclass(frozen=True)
class Record:
    """One row, understood. `where` is its place in the table, for errors."""

    where: str
    uid: str | None = None
    sha256: str | None = None
    path: str | None = None
    identifier: str | None = None  # where the object came from: a URL of Objaverse-XL
    licence: str | None = None
    tags: dict[str, Tag] = field(default_factory=dict)  # caption and score among them


def read_records(path: Path) -> Iterator[Record]:
    """The rows of a CSV or Parquet table; a bad one is a UserError that names its line."""
    names: dict[str, str] | None = None
    for where, row in read_table(path):
        if names is None:
            names = canonical_names(row)
            if not {"uid", "sha256", "path", "identifier"} & set(names.values()):
                raise UserError(
                    f"{path}: none of its columns says which mesh a row is about; name one of "
                    f"them uid, sha256, path or file_identifier (found: {', '.join(names)})"
                )
        yield _record(path, where, {names[key]: cell for key, cell in row.items()})


def canonical_names(columns: Iterable[str]) -> dict[str, str]:
    """Our name for each column: that of `COLUMNS`, or its own in lower case."""
    plain = {column: re.sub(r"[ -]+", "_", column.strip().casefold()) for column in columns}
    names = dict(plain)
    for ours, theirs in COLUMNS.items():
        # The best name wins; a second column of the same meaning keeps its own name, as a tag.
        best = next((c for name in theirs for c in plain if plain[c] == name), None)
        if best is not None:
            names[best] = ours
    reserved = {ours: column for column, ours in names.items() if ours in COLUMNS}
    return {
        column: ours if reserved.get(ours, column) == column else f"{ours}_"
        for column, ours in names.items()
    }


def _record(path: Path, where: str, row: Row) -> Record:
    problem = f"{path}, {where}"
    sha256 = _text(row.pop("sha256", None))
    if sha256 is not None and not _SHA256.fullmatch(sha256.casefold()):
        raise UserError(f"{problem}: sha256 '{sha256[:80]}' is not 64 hexadecimal digits")
    tags = {name: tag for name, cell in row.items() if (tag := _tag(cell)) is not None}
    for name in ("uid", "path", "identifier", "licence", "caption", "score"):
        tags.pop(name, None)
    caption = _caption(row.get("caption"))
    if caption is not None:
        tags["caption"] = caption
    score = _tag(row.get("score"))
    if isinstance(score, str):
        raise UserError(f"{problem}: score '{score[:80]}' is not a number")
    if score is not None:
        tags["score"] = score
    record = Record(
        where,
        uid=_text(row.get("uid")),
        sha256=None if sha256 is None else sha256.casefold(),
        path=_text(row.get("path")),
        identifier=_text(row.get("identifier")),
        licence=_text(row.get("licence")),
        tags=dict(sorted(tags.items())),
    )
    if record.uid is record.sha256 is record.path is record.identifier is None:
        raise UserError(f"{problem}: says neither uid, sha256, path nor file_identifier")
    return record


def _text(cell: Any) -> str | None:
    """A cell as a name; None if there is nothing in it."""
    if cell is None or isinstance(cell, (list, dict, bytes)):
        return None
    text = str(cell).strip()
    return None if text.casefold() in _NOTHING else text


def _tag(cell: Any) -> Tag:
    """A cell as a plain value: a number, 1.0 or 0.0 for a flag, else text. None: nothing plain."""
    if isinstance(cell, bool):
        return float(cell)
    if isinstance(cell, (int, float)):
        number = float(cell) if abs(cell) < 1e300 else math.inf
        return number if math.isfinite(number) else None
    text = _text(cell)
    if text is None:
        return None
    if text.casefold() in ("true", "false"):
        return float(text.casefold() == "true")
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text[:MAX_TEXT]


def _caption(cell: Any) -> str | None:
    """The caption, or the first one of a list (also of a JSON list in a text cell)."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            parsed = json.loads(cell)
        except (ValueError, RecursionError):
            parsed = cell  # a caption that happens to begin with a bracket
        cell = parsed
    if isinstance(cell, list):
        cell = next((part for part in cell if isinstance(part, str) and part.strip()), None)
    text = _text(cell)
    return None if text is None else text[:MAX_TEXT]

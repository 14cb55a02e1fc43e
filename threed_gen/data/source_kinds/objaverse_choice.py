"""Which objects of Objaverse to take: a text file of uids, or a table that names them."""

from __future__ import annotations

from pathlib import Path

from threed_gen.data.source_kinds.columns import Record, read_records
from threed_gen.errors import UserError

MAX_BYTES = 1_000_000_000


def read_choice(path: Path) -> list[Record]:
    """The rows of a table, or one record per line of a .txt file (# begins a comment)."""
    if path.suffix.lower() != ".txt":
        records = list(read_records(path))
    else:
        records = [
            Record(f"line {number}", uid=name)
            for number, line in enumerate(_lines(path), start=1)
            if (name := line.partition("#")[0].strip())
        ]
    if not records:
        raise UserError(f"{path}: names no objects")
    seen: dict[str, str] = {}
    for record in records:
        name = record.uid or record.sha256 or record.identifier or ""
        if name in seen:
            raise UserError(
                f"{path}, {record.where}: '{name[:80]}' is also in {seen[name]}; remove one"
            )
        seen[name] = record.where
    return records


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a list of uids, one a line")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: too large for a list of uids")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from err

"""Rows of a CSV or Parquet table, each with the place it came from, for clear errors.

A table is text of unknown origin: its size, its columns and its encoding are checked, and nothing
in it is ever executed or unpickled. Parquet needs `pyarrow` (the extra `parquet`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from threed_gen.errors import UserError

TABLE_SUFFIXES = (".csv", ".parquet")
MAX_BYTES = 4_000_000_000
MAX_COLUMNS = 500
BATCH_ROWS = 10_000

Row = dict[str, Any]  # by the table's own column names


def read_table(path: Path) -> Iterator[tuple[str, Row]]:
    """Every row with its place ("line 7" of a CSV, "row 6" of a Parquet file, both from 1)."""
    if not path.is_file():
        problem = "is not a file" if path.exists() else "no such file"
        raise UserError(f"{path}: {problem}; give a CSV or Parquet table")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UserError(f"{path}: not a table; its name should end with .csv or .parquet")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size / 1e9:.1f} GB is too large for a table; split it")
    return _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        last = 0
        try:
            for cells in reader:
                line, last = last + 1, reader.line_num  # a quoted cell may span several lines
                if not cells:
                    continue
                if header is None:
                    header = _header(path, cells)
                elif len(cells) != len(header):
                    raise UserError(
                        f"{path}, line {line}: {len(cells)} cells, but the header has "
                        f"{len(header)}; mend the line"
                    )
                else:
                    yield f"line {line}", dict(zip(header, cells, strict=True))
        except csv.Error as err:
            raise UserError(f"{path}, line {last + 1}: not valid CSV ({err})") from err
        except UnicodeDecodeError as err:
            raise UserError(
                f"{path}, after line {last}: not UTF-8 text; save the table as UTF-8"
            ) from err
    if header is None:
        raise UserError(f"{path}: empty; the first line should name the columns")


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as err:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow; `pip install 'threed-gen[parquet]'`"
        ) from err
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _header(path, list(file.schema_arrow.names))
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as err:
        problem = " ".join(str(err).split())[:200]
        raise UserError(f"{path}: not a readable Parquet file ({problem})") from err


def _header(path: Path, names: list[str]) -> list[str]:
    """The column names, which must be distinct."""
    names = [name.strip() for name in names]
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{path}: {len(names)} columns; at most {MAX_COLUMNS} are read")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: two columns are called '{twice[0]}'; rename one of them")
    return names

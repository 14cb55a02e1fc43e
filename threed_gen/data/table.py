"""What every index is: a text file of JSON lines that knows whether it is whole.

Line 1 says what the file is, in which version, how many rows it has and the sha256 of all that
follows; line 2 is one object about the whole; each further line is one row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from threed_gen.errors import UserError

Row = dict[str, Any]
# What a reader may raise on an object that is not of the shape it expects.
MISFITS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def table_bytes(
    name: str, version: int, whole: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> bytes:
    """The file's content; equal tables give equal bytes."""
    lines = [line(row) for row in rows]
    body = b"".join([line(whole), *lines])
    first = {
        "format": name,
        "version": version,
        "count": len(lines),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return line(first) + body


def parse_table(
    content: bytes, file: str, name: str, version: int, damaged: Callable[[str], UserError]
) -> tuple[Row, list[Row]]:
    """The object about the whole, and the rows.

    Args:
        file: what errors call the file.
        damaged: the error for a problem, with the cure of this kind of file.

    Raises:
        UserError: what `damaged` makes, or that a newer version wrote the file. One of `MISFITS`
            may escape where a line is no JSON object: the caller reads the rest under it too.
    """
    first, newline, body = content.partition(b"\n")
    head = json.loads(first)
    if not isinstance(head, dict) or head.get("format") != name or not newline:
        raise damaged(f"its first line does not say '{name}'")
    found = head.get("version")
    if type(found) is int and found > version:
        raise UserError(
            f"{file}: written in format version {found}, this threed-gen reads version "
            f"{version}: update threed-gen"
        )
    if found != version or head.get("sha256") != hashlib.sha256(body).hexdigest():
        raise damaged("its checksum differs")
    whole, *rows = [json.loads(text) for text in body.decode().splitlines()]
    if head.get("count") != len(rows):
        raise damaged(f"it should list {head.get('count')} samples, not {len(rows)}")
    return whole, rows


def line(row: Mapping[str, Any]) -> bytes:
    """One object as one line of JSON."""
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def typed(row: Row, key: str, *kinds: type) -> Any:
    """`row[key]`, which has to be of one of these types."""
    if type(row[key]) not in kinds:
        raise ValueError(f"'{key}' should be {kinds[0].__name__}, not {row[key]!r}")
    return row[key]

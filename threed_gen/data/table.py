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
    name: str, version: int, whole: Mapping[str, Any], rows: Iterable[Mapping[str, Any]],
    first_key: str | None = None,
) -> bytes:  # fmt: skip
    """The file's content; equal tables give equal bytes.

    first_key: of every row, where a reader is to find it without parsing the line.
    """
    lines = [line(row, first_key) for row in rows]
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
    """The object about the whole, and the rows; arguments and errors of `check_head`.

    One of `MISFITS` may escape where a line is no JSON object: the caller reads the rest under it.
    """
    first, newline, body = content.partition(b"\n")
    digest = hashlib.sha256(body).hexdigest()
    count = check_head(first + newline, digest, file, name, version, damaged)
    whole, *rows = [json.loads(text) for text in body.decode().splitlines()]
    if count != len(rows):
        raise damaged(f"it should list {count} samples, not {len(rows)}")
    return whole, rows


def check_head(
    first: bytes, sha256: str, file: str, name: str, version: int,
    damaged: Callable[[str], UserError],
) -> int:  # fmt: skip
    """How many rows line 1 promises.

    Args:
        first: line 1 with its end.
        sha256: of all that follows.
        file: what errors call the file.
        damaged: the error for a problem, with the cure of this kind of file.

    Raises:
        UserError: what `damaged` makes, or that a newer version wrote the file.
    """
    try:
        head = json.loads(first)
        right = head["format"] == name and first.endswith(b"\n")
    except MISFITS:
        right = False
    if not right:
        raise damaged(f"its first line does not say '{name}'")
    found, count = head.get("version"), head.get("count")
    if type(found) is int and found > version:
        raise UserError(
            f"{file}: written in format version {found}, this threed-gen reads version "
            f"{version}: update threed-gen"
        )
    if found != version or head.get("sha256") != sha256 or type(count) is not int:
        raise damaged("its checksum differs")
    return count


def line(row: Mapping[str, Any], first_key: str | None = None) -> bytes:
    """One object as one line of JSON, its keys sorted, but for the first where one is given."""
    text = json.dumps(row, sort_keys=True, separators=(",", ":"))
    if first_key is not None:
        rest = {key: value for key, value in row.items() if key != first_key}
        first = json.dumps({first_key: row[first_key]}, separators=(",", ":"))
        text = first[:-1] + "," + json.dumps(rest, sort_keys=True, separators=(",", ":"))[1:]
    return text.encode() + b"\n"


def typed(row: Row, key: str, *kinds: type) -> Any:
    """`row[key]`, which has to be of one of these types."""
    if type(row[key]) not in kinds:
        raise ValueError(f"'{key}' should be {kinds[0].__name__}, not {row[key]!r}")
    return row[key]

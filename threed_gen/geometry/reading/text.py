"""Lines and numbers of text formats, in pieces, so that the whole file never lies there as objects.

A text with a zero byte is binary garbage, and a line beyond the limit is one too: both are known
before anything is split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.reasons import ReadLimits, reject, shown

_PIECE = 1 << 22


def pieces_of_lines(content: bytes, limits: ReadLimits) -> Iterator[list[bytes]]:
    """The lines of a text without their margins, some megabytes at a time."""
    if b"\0" in content:
        raise reject("unreadable", "is not text: it holds zero bytes")
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")  # as old Macintosh programs end lines
    start = 0
    while start < len(content):
        end = _end_of_piece(content, start, limits)
        lines = content[start:end].split(b"\n")
        if max(map(len, lines)) > limits.max_line_bytes:
            raise _too_long(limits)
        yield [line.strip() for line in lines]
        start = end


def _end_of_piece(content: bytes, start: int, limits: ReadLimits) -> int:
    end = start + _PIECE
    if end >= len(content):
        return len(content)
    newline = content.rfind(b"\n", start, end)
    if newline < 0:
        raise _too_long(limits)
    # A line that ends in a backslash goes on in the next one.
    while newline > start and content[newline - 2 : newline].rstrip(b"\r").endswith(b"\\"):
        newline = content.rfind(b"\n", start, newline)
    return max(newline, start) + 1


def _too_long(limits: ReadLimits) -> Exception:
    return reject("unreadable", f"has a line of more than {limits.max_line_bytes:,} bytes")


def rows(lines: Sequence[bytes], columns: slice) -> NDArray[np.float64]:
    """The same columns of every line as numbers, float64 [lines, columns]."""
    count = columns.stop - columns.start
    if not lines:
        return np.zeros((0, count))
    try:
        found = np.array([[float(w) for w in line.split()[columns]] for line in lines])
        return found.reshape(len(lines), count)
    except ValueError:
        bad = next((line for line in lines if not _are_numbers(line.split()[columns], count)), b"")
        text = shown(bad.decode("utf-8", "replace"), 60)
        raise reject("unreadable", f'has a line without {count} numbers: "{text}"') from None


def _are_numbers(words: list[bytes], count: int) -> bool:
    try:
        return len([float(word) for word in words]) == count
    except ValueError:
        return False


def numbers(content: bytes) -> NDArray[np.float64]:
    """All numbers of a text, whatever white space is between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(content, dtype=np.float64, sep=" ")
        except (ValueError, DeprecationWarning) as err:
            raise reject("unreadable", "has something other than numbers in its table") from err

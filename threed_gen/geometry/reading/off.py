"""Object File Format .off, with colours or normals or without; the binary form is rejected."""

from __future__ import annotations

import re

import numpy as np

from threed_gen.geometry.reading.polygons import triangulate
from threed_gen.geometry.reading.reasons import Raw, ReadLimits, check_faces, reject
from threed_gen.geometry.reading.text import pieces_of_lines, rows

# Some data sets write the counts right behind the word ("OFF8 6 0").
_HEADER = re.compile(rb"(?:ST)?C?N?OFF\s*(BINARY)?\s*(\d+)\s+(\d+)(?:\s+\d+)?\s")
_DIGITS = 15  # of a count; more is no count


def read_off(content: bytes, limits: ReadLimits) -> Raw:
    """Read the text of an .off file."""
    text = re.sub(rb"#[^\n]*", b"", content.removeprefix(b"\xef\xbb\xbf")).lstrip()
    if text[:40].upper().startswith(b"OFF BINARY"):
        raise reject("unsupported_version", "is a binary OFF; save it as .ply or .glb")
    header = _HEADER.match(text)
    if header is None or max(map(len, header.groups(b""))) > _DIGITS:
        raise reject("unreadable", "does not begin as an OFF file does")
    points, polygons = int(header[2]), int(header[3])
    check_faces(polygons, limits)
    lines = [
        line for piece in pieces_of_lines(text[header.end() :], limits) for line in piece if line
    ]
    if len(lines) < points + polygons:
        raise reject("unreadable", f"is cut off: {points + polygons - len(lines):,} lines lack")
    vertices = rows(lines[:points], slice(0, 3))
    words = [line.split() for line in lines[points : points + polygons]]
    try:
        sizes = np.array([int(row[0]) for row in words], dtype=np.int64)
        short = any(len(row) <= size or size < 0 for row, size in zip(words, sizes, strict=True))
        corners = np.array(
            [int(w) for row in words for w in row[1 : 1 + int(row[0])]], dtype=np.int64
        )
    except (ValueError, OverflowError):
        raise reject("unreadable", "has faces with something other than vertex numbers") from None
    if short:
        raise reject("unreadable", "has faces with fewer corners than they promise")
    check_faces(int(np.maximum(sizes - 2, 0).sum()), limits)
    if len(corners) and (corners.min() < 0 or corners.max() >= points):
        raise reject("unreadable", "has faces that name vertices that do not exist")
    return Raw(vertices, triangulate(sizes, corners, vertices), up=2)

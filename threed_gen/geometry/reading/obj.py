"""Wavefront .obj: vertices and polygons, in the order of the file.

Materials are never opened: geometry needs none. Relative (negative) numbers count back from the
line they are in, so files of several objects come out right.
"""

from __future__ import annotations

import re
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.beside import Beside
from threed_gen.geometry.reading.polygons import triangulate
from threed_gen.geometry.reading.reasons import Raw, ReadLimits, check_faces, reject
from threed_gen.geometry.reading.text import pieces_of_lines, rows

_BLANKS = b" \t"
_LINES_OR_POINTS = (b"l ", b"p ", b"l\t", b"p\t")


def read_obj(content: bytes, beside: Beside, limits: ReadLimits) -> Raw:
    """Read the text of an .obj file."""
    check_faces(content.count(b"\nf "), limits)
    vertices: list[NDArray[np.float64]] = []
    sizes: list[NDArray[np.int64]] = []
    corners: list[NDArray[np.int64]] = []
    flags: set[str] = set()
    count = 0
    for lines in pieces_of_lines(content.removeprefix(b"\xef\xbb\xbf"), limits):
        lines = plain_lines(lines)
        is_vertex = np.array([line[:1] == b"v" and line[1:2] in _BLANKS for line in lines])
        is_face = np.array([line[:1] == b"f" and line[1:2] in _BLANKS for line in lines])
        before = count + np.cumsum(is_vertex)
        vertices.append(rows([lines[i] for i in np.flatnonzero(is_vertex)], slice(1, 4)))
        size, corner = _polygons([lines[i] for i in np.flatnonzero(is_face)])
        corners.append(absolute(corner, np.repeat(before[is_face], size)))
        sizes.append(size)
        count += int(is_vertex.sum())
        for line in lines:
            if line.startswith(_LINES_OR_POINTS):
                flags.add("points_dropped")
            elif line.startswith(b"mtllib") and not _is_there(line, beside):
                flags.add("missing_material")
    return _joined(vertices, sizes, corners, frozenset(flags), limits)


def _joined(
    vertices: list[NDArray[np.float64]],
    sizes: list[NDArray[np.int64]],
    corners: list[NDArray[np.int64]],
    flags: frozenset[str],
    limits: ReadLimits,
) -> Raw:
    points = np.concatenate([*vertices, np.zeros((0, 3))])
    size = np.concatenate([*sizes, np.zeros(0, dtype=np.int64)])
    corner = np.concatenate([*corners, np.zeros(0, dtype=np.int64)])
    check_faces(int(np.maximum(size - 2, 0).sum()), limits)
    if len(corner) and (corner.min() < 0 or corner.max() >= len(points)):
        raise reject("unreadable", "has faces that name vertices that do not exist")
    return Raw(points, triangulate(size, corner, points), flags, up=1)


def plain_lines(lines: list[bytes]) -> list[bytes]:
    """Lines without comments, and joined where a backslash says that they go on."""
    if any(line.endswith(b"\\") for line in lines):
        lines = b"\n".join(lines).replace(b"\\\n", b" ").split(b"\n")
    return [line.partition(b"#")[0] if b"#" in line else line for line in lines]


def _polygons(lines: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners per polygon, and the first number of every `vertex/texture/normal`."""
    if not lines:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    words = [line.split() for line in re.sub(rb"/\S*", b"", b"\n".join(lines)).split(b"\n")]
    sizes = np.array([len(row) - 1 for row in words], dtype=np.int64)
    flat = chain.from_iterable(row[1:] for row in words)
    try:
        return sizes, np.array([int(word) for word in flat], dtype=np.int64)
    except (ValueError, OverflowError):
        raise reject("unreadable", "has faces with something other than vertex numbers") from None


def absolute(corner: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counted from 0; `before` is how many vertices stand above the line of each corner."""
    return np.where(corner < 0, before + corner, np.where(corner == 0, -1, corner - 1))


def _is_there(line: bytes, beside: Beside) -> bool:
    name = line[len(b"mtllib") :].strip().decode("utf-8", "surrogateescape")
    return beside.has(name)

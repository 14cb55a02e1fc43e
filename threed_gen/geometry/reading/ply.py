"""Stanford .ply, as text or binary in either byte order.

The header says how many rows every element has; that is held against the size of the file before
a row is read. Colours, normals and everything else beside positions and polygons are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.ply_rows import BinaryRows, Column, Rows, TextRows
from threed_gen.geometry.reading.polygons import strip, triangulate
from threed_gen.geometry.reading.reasons import Raw, ReadLimits, check_faces, reject, shown

_LONGEST_HEADER = 1 << 20
_DIGITS = 15
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "int64": "i8", "uint64": "u8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class Element:
    """A table of a .ply as its header announces it."""

    name: str
    count: int
    columns: list[Column] = field(default_factory=list)


def read_ply(content: bytes, limits: ReadLimits) -> Raw:
    """Read a .ply file."""
    order, elements, start = read_header(content)
    for element in elements:
        if element.name in ("face", "tristrips"):
            check_faces(element.count, limits)
    rows: Rows = BinaryRows(content, start, order) if order else TextRows(content[start:])
    needed = sum(element.count * rows.smallest(element.columns) for element in elements)
    if needed > rows.left():
        promised = ", ".join(f"{e.count:,} {shown(e.name, 20)}" for e in elements)
        raise reject("unreadable", f"is cut off: its header promises {promised}")
    vertices = np.zeros((0, 3))
    faces: list[NDArray[np.int64]] = []
    flags: set[str] = set()
    polygons: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for element in elements:
        if element.name == "vertex":
            vertices = _positions(rows.scalars(element.columns, element.count, ("x", "y", "z")))
        elif element.name in ("face", "tristrips") and element.count:
            names = ("vertex_indices", "vertex_index")
            polygons.append(rows.lists(element.columns, element.count, names))
            if element.name == "tristrips":
                faces += _strips(polygons.pop()[1])
        else:
            rows.skip(element.columns, element.count)
            flags |= {"points_dropped"} if element.name == "edge" and element.count else set()
    for sizes, corners in polygons:
        check_faces(int(np.maximum(sizes - 2, 0).sum()), limits)
        _check(corners, len(vertices))
        faces.append(triangulate(sizes, corners, vertices))
    joined = np.concatenate([*faces, np.zeros((0, 3), dtype=np.int64)])
    _check(joined, len(vertices))
    check_faces(len(joined), limits)
    return Raw(vertices, joined, frozenset(flags), up=2)


def read_header(content: bytes) -> tuple[str, list[Element], int]:
    """Byte order ("" for text), the elements, and where the rows begin."""
    mark = content.find(b"end_header", 0, _LONGEST_HEADER)
    end = content.find(b"\n", mark)
    if not content.startswith(b"ply") or mark < 0:
        raise reject("unreadable", "does not begin as a PLY file does")
    # The line may end in \n, \r\n, or (old Macintosh) in \r alone.
    if content[mark + 10 : mark + 11] == b"\r" and content[mark + 11 : mark + 12] != b"\n":
        end = mark + 10
    if end < 0:
        raise reject("unreadable", "is cut off in its header")
    order: str | None = None
    elements: list[Element] = []
    for line in content[:mark].decode("latin-1").splitlines():
        words = line.split()
        match words:
            case ["format", name, *_] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal() and len(count) <= _DIGITS:
                elements.append(Element(name, int(count)))
            case ["property", "list", size, kind, name] if elements:
                elements[-1].columns.append(Column(name, _type(kind), _type(size)))
            case ["property", kind, name] if elements:
                elements[-1].columns.append(Column(name, _type(kind)))
            case ["format" | "element" | "property", *_]:
                raise reject("unreadable", f'has a header line "{shown(line, 60)}" of no meaning')
    if order is None:
        raise reject("unreadable", "has a header without a format")
    return order, elements, end + 1


def _type(word: str) -> str:
    if word not in _TYPES:
        raise reject("unreadable", f'has a column of the unknown type "{shown(word, 30)}"')
    return _TYPES[word]


def _positions(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.stack(columns, axis=1)


def _strips(corners: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """All strips of a tristrips element; -1 begins a new one."""
    return [strip(part[part >= 0]) for part in np.split(corners, np.flatnonzero(corners < 0))]


def _check(corners: NDArray[np.int64], points: int) -> None:
    if corners.size and (corners.min() < 0 or corners.max() >= points):
        raise reject("unreadable", "has faces that name vertices that do not exist")

"""Stereolithography .stl, binary or text: triangles and nothing else.

Which of the two it is says the size, not the first word: binary files may begin with "solid" too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.reasons import Raw, ReadLimits, check_faces, reject
from threed_gen.geometry.reading.text import pieces_of_lines, rows

_HEADER = 84  # 80 bytes of anything, and the number of faces
_FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])


def read_stl(content: bytes, limits: ReadLimits) -> Raw:
    """Read an .stl file."""
    count = int.from_bytes(content[80:_HEADER], "little") if len(content) >= _HEADER else -1
    fits = count >= 0 and _HEADER + count * _FACE.itemsize <= len(content)
    if content.lstrip()[:5].lower() == b"solid" and (not fits or _is_text(content)):
        return _text(content, limits)
    if count < 0:
        raise reject("unreadable", "is too short for an STL file")
    if not fits:
        raise reject(
            "unreadable",
            f"is cut off, or no STL: it promises {count:,} faces, its size allows "
            f"{(len(content) - _HEADER) // _FACE.itemsize:,}",
        )
    check_faces(count, limits)
    faces = np.frombuffer(content, _FACE, count, _HEADER)
    return _raw(faces["corners"].reshape(-1, 3).astype(np.float64))


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:4096] and b"facet" in content[:4096].lower()


def _text(content: bytes, limits: ReadLimits) -> Raw:
    found: list[NDArray[np.float64]] = []
    facets = vertices = 0
    for lines in pieces_of_lines(content, limits):
        lines = [line.lower() for line in lines]
        corners = [line for line in lines if line.startswith(b"vertex")]
        facets += sum(line.startswith(b"facet") for line in lines)
        vertices += len(corners)
        check_faces(facets, limits)
        found.append(rows(corners, slice(1, 4)))
    if vertices != 3 * facets:
        raise reject("unreadable", f"is cut off: {facets:,} faces have {vertices:,} corners")
    return _raw(np.concatenate([*found, np.zeros((0, 3))]))


def _raw(corners: NDArray[np.float64]) -> Raw:
    return Raw(corners, np.arange(len(corners)).reshape(-1, 3), up=2)

"""The colours of a Wavefront .obj: its .mtl (Kd, map_Kd, d), or colours behind the vertices.

The .mtl format leaves much open. Ours: Kd and vertex colours are sRGB, as people pick them; where
there is a map_Kd, Kd does not tint it (exporters write 0 there as often as 1); a `d` of 0 is taken
for a mistake. Polygons are cut exactly as the reader of the geometry cuts them.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.reading.beside import Beside
from threed_gen.geometry.reading.obj import absolute, plain_lines
from threed_gen.geometry.reading.polygons import triangulate
from threed_gen.geometry.reading.reasons import ReadLimits, check_faces, reject
from threed_gen.geometry.reading.text import pieces_of_lines, rows
from threed_gen.geometry.render.paint import (
    AlphaMode,
    Color,
    Material,
    PaintedMesh,
    linear_from_srgb,
)
from threed_gen.geometry.render.textures import Textures


def _whole() -> array[int]:
    return array("q")


@dataclass
class _Lines:
    """What the lines of the file say, in their order."""

    points: list[bytes] = field(default_factory=list)
    uvs: list[bytes] = field(default_factory=list)
    sizes: array[int] = field(default_factory=_whole)  # corners of each polygon
    corners: array[int] = field(default_factory=_whole)  # vertex and uv of each, as written
    before: array[int] = field(default_factory=_whole)  # vertices and uvs above each polygon
    material: array[int] = field(default_factory=_whole)  # of each polygon, in `names`
    names: dict[bytes, int] = field(default_factory=dict)  # name → number
    libraries: list[bytes] = field(default_factory=list)


def paint_obj(content: bytes, beside: Beside, limits: ReadLimits) -> PaintedMesh | None:
    """Read the text of an .obj with its colours; None if it neither has nor names any."""
    if b"mtllib" not in content and not _colored(content):
        return None
    lines = _lines(content, limits)
    points, colors = _points(lines.points)
    uv = rows(lines.uvs, slice(1, 3)) if lines.uvs else np.zeros((0, 2))
    sizes = np.array(lines.sizes, np.int64)
    check_faces(int(np.maximum(sizes - 2, 0).sum()), limits)
    written = np.array(lines.corners, np.int64).reshape(-1, 2)
    above = np.repeat(np.array(lines.before, np.int64).reshape(-1, 2), sizes, axis=0)
    corner = absolute(written[:, 0], above[:, 0])
    uv_corner = absolute(written[:, 1], above[:, 1])
    if len(corner) and (corner.min() < 0 or corner.max() >= len(points)):
        raise reject("unreadable", "has faces that name vertices that do not exist")
    # Triangles of corners, not of vertices: each corner has its own texture coordinate.
    triangles = triangulate(sizes, np.arange(len(corner)), points[corner])
    polygon = np.repeat(np.arange(len(sizes)), np.maximum(sizes - 2, 0))
    textures, flags = Textures(), set[str]()
    library = _library(lines.libraries, beside, textures, flags)
    # Without a material, colours of the vertices are shown as they are.
    fallback = Material() if colors is None else Material((1.0, 1.0, 1.0, 1.0))
    known = (uv_corner >= 0) & (uv_corner < len(uv))
    at = np.zeros((len(corner), 2))
    at[known] = np.nan_to_num(uv[uv_corner[known]], posinf=0.0, neginf=0.0)
    at[:, 1] = 1.0 - at[:, 1]  # rows of pictures count from the top, v from below
    tint = np.ones((len(points), 4)) if colors is None else colors
    return PaintedMesh(
        points,
        corner[triangles],
        at[triangles].astype(np.float32),
        tint[corner[triangles]].astype(np.float32),
        np.array(lines.material, np.int32)[polygon],
        tuple(library.get(name, fallback) for name in lines.names),
        tuple(textures.images),
        tuple(sorted(flags | textures.flags)),
    )


def _colored(content: bytes) -> bool:
    """Whether the first vertex has more than a position and a weight."""
    first = re.search(rb"^[ \t]*v[ \t]([^\r\n]*)", content, re.MULTILINE)
    return first is not None and len(first[1].split()) >= 6


def _lines(content: bytes, limits: ReadLimits) -> _Lines:
    found = _Lines()
    name = b""
    for piece in pieces_of_lines(content.removeprefix(b"\xef\xbb\xbf"), limits):
        for line in plain_lines(piece):
            word, _, rest = line.replace(b"\t", b" ").partition(b" ")
            if word == b"v":
                found.points.append(line)
            elif word == b"vt":
                found.uvs.append(line)
            elif word == b"f":
                corners = rest.split()
                for corner in corners:
                    found.corners.extend(_numbers(corner))
                found.sizes.append(len(corners))
                found.before.extend((len(found.points), len(found.uvs)))
                found.material.append(found.names.setdefault(name, len(found.names)))
            elif word == b"usemtl":
                name = rest.strip()
            elif word == b"mtllib":
                found.libraries.append(rest.strip())
    return found


def _numbers(corner: bytes) -> tuple[int, int]:
    """`vertex/texture/normal`: the first two, 0 for one that is not there."""
    vertex, _, rest = corner.partition(b"/")
    texture = rest.partition(b"/")[0]
    return int(vertex), int(texture) if texture else 0


def _points(lines: list[bytes]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions [V, 3], and colours [V, 4] in linear light if every vertex has one."""
    points = rows(lines, slice(1, 4))
    if not lines or any(len(line.split()) < 7 for line in lines):
        return points, None
    rgb = rows(lines, slice(4, 7))
    if not np.isfinite(rgb).all():
        return points, None
    linear = linear_from_srgb(np.clip(rgb / (255.0 if rgb.max() > 1 else 1.0), 0.0, 1.0))
    return points, np.concatenate([linear, np.ones((len(rgb), 1))], axis=1)


def _library(
    names: list[bytes], beside: Beside, textures: Textures, flags: set[str]
) -> dict[bytes, Material]:
    """The materials of all .mtl files that are there; one that is not leaves the neutral one."""
    found: dict[bytes, Material] = {}
    for name in dict.fromkeys(names):
        reference = name.decode("utf-8", "surrogateescape")
        if not beside.has(reference):
            continue  # flagged as missing_material when the geometry was read
        try:
            found |= _mtl(beside.read(reference), beside, textures)
        except (MeshError, ValueError, LookupError):
            flags.add("material_unreadable")
    return found


def _mtl(content: bytes, beside: Beside, textures: Textures) -> dict[bytes, Material]:
    found: dict[bytes, Material] = {}
    name, rows_of = b"", dict[bytes, bytes]()
    for line in [*content.replace(b"\r", b"\n").split(b"\n"), b"newmtl "]:
        word, _, rest = line.strip().replace(b"\t", b" ").partition(b" ")
        if word.lower() == b"newmtl":
            if rows_of or name:
                found[name] = _material(rows_of, beside, textures)
            name, rows_of = rest.strip(), {}
        elif word:
            rows_of[word.lower()] = rest.strip()
    return found


def _material(words: dict[bytes, bytes], beside: Beside, textures: Textures) -> Material:
    alpha = float(words.get(b"d", b"1").split()[-1])
    if b"d" not in words and b"tr" in words:
        alpha = 1.0 - float(words[b"tr"])
    alpha = alpha if 0 < alpha < 1 else 1.0
    mode: AlphaMode = "BLEND" if alpha < 1 else "OPAQUE"
    if b"map_kd" in words:
        # Options (-s 1 1 1 …) stand before the name, which may have blanks of its own.
        text = words[b"map_kd"]
        reference = (text.split()[-1] if text.startswith(b"-") else text).decode(
            "utf-8", "surrogateescape"
        )
        texture = textures.number(reference, lambda: beside.read(reference))
        if texture >= 0:
            return Material((1.0, 1.0, 1.0, alpha), texture, mode)
        return Material()
    if b"kd" not in words:
        return Material()
    kd = [float(word) for word in words[b"kd"].split()[:3]]
    if len(kd) != 3 or not np.isfinite(kd).all():
        raise ValueError("Kd without three numbers")
    r, g, b = (float(v) for v in linear_from_srgb(np.clip(kd, 0.0, 1.0)))
    color: Color = (r, g, b, alpha)
    return Material(color, -1, mode)

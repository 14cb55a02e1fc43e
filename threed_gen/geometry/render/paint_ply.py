"""The colours of a .ply: red, green, blue (and alpha) of its vertices, which are taken for sRGB.

Faces with colours of their own and texture files are rare, and left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading.ply import Element, read_header, read_ply
from threed_gen.geometry.reading.ply_rows import BinaryRows, Rows, TextRows
from threed_gen.geometry.reading.reasons import ReadLimits
from threed_gen.geometry.render.paint import Material, PaintedMesh, linear_from_srgb

_RGB = ("red", "green", "blue")


def paint_ply(content: bytes, limits: ReadLimits) -> PaintedMesh | None:
    """Read a .ply with the colours of its vertices; None if they have none."""
    order, elements, start = read_header(content)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None or not set(_RGB) <= {column.name for column in vertex.columns}:
        return None
    raw = read_ply(content, limits)
    rows: Rows = BinaryRows(content, start, order) if order else TextRows(content[start:])
    for element in elements:
        if element is vertex:
            break
        rows.skip(element.columns, element.count)
    colors = _colors(rows, vertex)[raw.faces]
    F = len(raw.faces)
    return PaintedMesh(
        raw.vertices,
        raw.faces,
        np.zeros((F, 3, 2), np.float32),
        colors.astype(np.float32),
        np.zeros(F, np.int32),
        (Material((1.0, 1.0, 1.0, 1.0)),),
    )


def _colors(rows: Rows, vertex: Element) -> NDArray[np.float64]:
    """Colours [V, 4] in linear light; whole numbers count to the largest of their type."""
    kinds = {column.name: np.dtype(column.kind) for column in vertex.columns}
    values = np.stack(rows.scalars(vertex.columns, vertex.count, _RGB), axis=1)
    kind = kinds["red"]
    largest = float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
    share = np.clip(np.nan_to_num(values / largest), 0.0, 1.0)
    return np.concatenate([linear_from_srgb(share), np.ones((len(share), 1))], axis=1)

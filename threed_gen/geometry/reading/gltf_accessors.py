"""Accessors of a glTF as arrays: every offset, stride and count is held against the bytes there.

An array is a view of the buffer until it is converted, so a claimed count costs nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.gltf_file import GltfFile, check_compression
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.reasons import reject

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_INDEX = (5121, 5123, 5125)


def count_of(file: GltfFile, number: int) -> int:
    """How many elements an accessor claims to have."""
    return json_tree.whole(json_tree.item(file.tree, "accessors", number), "count")


def read_real(file: GltfFile, number: int, width: str) -> NDArray[np.float64]:
    """An accessor as real numbers [count, width]; normalised integers become their fraction."""
    accessor = json_tree.item(file.tree, "accessors", number)
    values = _values(file, accessor, width)
    found = values.astype(np.float64)
    if accessor.get("normalized") is True and values.dtype.kind in "iu":
        largest = (1 << (8 * values.dtype.itemsize - (values.dtype.kind == "i"))) - 1
        found = np.maximum(found / largest, -1.0)
    return found


def read_whole(file: GltfFile, number: int, width: str) -> NDArray[np.int64]:
    """An accessor of unsigned whole numbers [count, width]: indices, joints."""
    accessor = json_tree.item(file.tree, "accessors", number)
    if json_tree.whole(accessor, "componentType") not in _INDEX:
        raise reject("unreadable", f"has indices of a kind that is none (accessor {number})")
    return _values(file, accessor, width).astype(np.int64)


def _values(file: GltfFile, accessor: Tree, width: str) -> NDArray[np.generic]:
    component = json_tree.whole(accessor, "componentType")
    count = json_tree.whole(accessor, "count")
    if component not in _COMPONENTS or accessor.get("type") != width:
        raise reject("unreadable", f"has an accessor that should be {width} of numbers and is not")
    dtype, columns = np.dtype(_COMPONENTS[component]), _WIDTHS[width]
    if count > 3 * file.limits.max_faces:
        raise reject("too_many_faces", f"claims {count:,} elements in one accessor")
    if "bufferView" in accessor:
        start = json_tree.whole(accessor, "byteOffset", 0)
        view = json_tree.whole(accessor, "bufferView")
        values = _view(file, view, start, count, dtype, columns)
    else:
        values = np.zeros((count, columns), dtype)
    if "sparse" in accessor:
        values = _with_exceptions(file, json_tree.child(accessor, "sparse"), values)
    return values


def _view(
    file: GltfFile, number: int, start: int, count: int, dtype: np.dtype[np.generic], columns: int
) -> NDArray[np.generic]:
    """`count` rows of a buffer view, without copying."""
    view = json_tree.item(file.tree, "bufferViews", number)
    check_compression(view, f" (bufferViews[{number}])")
    offset = json_tree.whole(view, "byteOffset", 0)
    length = json_tree.whole(view, "byteLength")
    row = dtype.itemsize * columns
    stride = json_tree.whole(view, "byteStride", row)
    content = file.buffer(json_tree.whole(view, "buffer"))
    if offset + length > len(content):
        raise reject("unreadable", f"has bufferViews[{number}] that reaches beyond its buffer")
    if stride < row and count > 1:
        raise reject("unreadable", f"has bufferViews[{number}] with a byteStride of {stride}")
    if count and start + stride * (count - 1) + row > length:
        raise reject(
            "unreadable",
            f"claims {count:,} elements where bufferViews[{number}] has {length:,} bytes",
        )
    if count == 0:
        return np.zeros((0, columns), dtype)
    return np.ndarray((count, columns), dtype, content, offset + start, (stride, dtype.itemsize))


def _with_exceptions(
    file: GltfFile, sparse: Tree, values: NDArray[np.generic]
) -> NDArray[np.generic]:
    """The values with those replaced that a sparse accessor lists."""
    count = json_tree.whole(sparse, "count")
    indices, new = json_tree.child(sparse, "indices"), json_tree.child(sparse, "values")
    component = json_tree.whole(indices, "componentType")
    if count > len(values) or component not in _INDEX:
        raise reject("unreadable", "has a sparse accessor that cannot be right")
    where = _view(
        file, json_tree.whole(indices, "bufferView"), json_tree.whole(indices, "byteOffset", 0),
        count, np.dtype(_COMPONENTS[component]), 1,
    )[:, 0].astype(np.int64)  # fmt: skip
    if count and where.max() >= len(values):
        raise reject("unreadable", "has a sparse accessor that replaces what does not exist")
    changed = values.copy()
    changed[where] = _view(
        file, json_tree.whole(new, "bufferView"), json_tree.whole(new, "byteOffset", 0),
        count, values.dtype, values.shape[1],
    )  # fmt: skip
    return changed

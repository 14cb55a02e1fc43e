"""A balanced box tree over triangles, built with NumPy and walked by the kernels of distance.py.

Triangles are cut in halves again and again, each time along the longest side of the box around
their centres, always at the median. So the tree is complete: the children of node i are 2i and
2i + 1 (the root is 1), no pointers are stored, and leaf k holds the triangles
[k * n / leaves, (k + 1) * n / leaves) of the new order. The same triangles always give the same
tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAF_TRIANGLES = 4  # at most, per leaf


@dataclass(frozen=True)
class BoxTree:
    """Triangles in tree order and the boxes around them."""

    corners: NDArray[np.float64]  # [F, 3, 3] corner positions in tree order
    order: NDArray[np.int64]  # [F] original number of each triangle in tree order
    low: NDArray[np.float64]  # [2 * leaves, 3] box of node i; row 0 is unused
    high: NDArray[np.float64]  # [2 * leaves, 3]
    leaf_start: NDArray[np.int32]  # [leaves + 1] first triangle of each leaf

    @property
    def leaves(self) -> int:
        """Number of leaves, a power of two."""
        return len(self.leaf_start) - 1


def build_box_tree(corners: NDArray[np.float64]) -> BoxTree:
    """Tree over triangles given by their corners, float64 [F, 3, 3], F >= 1."""
    count = len(corners)
    if count == 0:
        raise ValueError("a box tree needs at least one triangle")
    depth = max(0, int(np.ceil(np.log2(count / LEAF_TRIANGLES))))
    low, high = corners.min(axis=1), corners.max(axis=1)
    centres = (low + high) * 0.5
    order = np.arange(count)
    for level in range(depth):
        order = _split_level(order, centres, 2**level)
    leaf_start = _starts(count, 2**depth)
    box_low, box_high = _boxes(low[order], high[order], leaf_start)
    return BoxTree(
        np.ascontiguousarray(corners[order]), order, box_low, box_high, leaf_start.astype(np.int32)
    )


def _starts(count: int, groups: int) -> NDArray[np.int64]:
    """First member of each of `groups` equal shares of `count` things, and the end: [groups + 1].

    The shares nest: those of 2 * groups lie inside those of groups.
    """
    return np.arange(groups + 1, dtype=np.int64) * count // groups


def _split_level(
    order: NDArray[np.int64], centres: NDArray[np.float64], groups: int
) -> NDArray[np.int64]:
    """Sort every group of triangles along the longest side of the box around its centres."""
    starts = _starts(len(order), groups)
    placed = centres[order]
    extent = np.maximum.reduceat(placed, starts[:-1]) - np.minimum.reduceat(placed, starts[:-1])
    axis = np.argmax(extent, axis=1)
    group = np.repeat(np.arange(groups), np.diff(starts))
    key = placed[np.arange(len(order)), axis[group]]
    return order[np.lexsort((key, group))]


def _boxes(
    low: NDArray[np.float64], high: NDArray[np.float64], leaf_start: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    leaves = len(leaf_start) - 1
    box_low, box_high = np.zeros((2 * leaves, 3)), np.zeros((2 * leaves, 3))
    box_low[leaves:] = np.minimum.reduceat(low, leaf_start[:-1])
    box_high[leaves:] = np.maximum.reduceat(high, leaf_start[:-1])
    first = leaves
    while first > 1:
        left, right = slice(first, 2 * first, 2), slice(first + 1, 2 * first, 2)
        parents = slice(first // 2, first)
        box_low[parents] = np.minimum(box_low[left], box_low[right])
        box_high[parents] = np.maximum(box_high[left], box_high[right])
        first //= 2
    return box_low, box_high

"""The released preprocessing by hand, in integers: what Pillow is expected to do to every pixel.

A bilinear resize of 8-bit images: per output pixel a triangle around its centre, as wide as two
output pixels when shrinking (two input pixels when growing), in 22-bit fixed point; rows first,
then columns, rounded to 8 bits after each.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BITS = 22


def triangle(old: int, new: int) -> NDArray[np.int64]:
    """Weights [new, old] of a resize along one axis."""
    scale = old / new
    reach = max(scale, 1.0)
    weights = np.zeros((new, old), np.int64)
    for i in range(new):
        centre = (i + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), old)
        row = [max(0.0, 1 - abs((j + 0.5 - centre) / reach)) for j in range(first, last)]
        total = sum(row)
        weights[i, first:last] = [int(0.5 + w / total * (1 << BITS)) for w in row]
    return weights


def bilinear(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[H, W, 3] -> [size, size, 3]."""
    values = image.astype(np.float64)  # whole numbers below 2³¹: sums are exact
    for axis in (1, 0):
        if values.shape[axis] != size:
            table = triangle(values.shape[axis], size).astype(np.float64)
            moved = np.moveaxis(np.tensordot(table, values, (1, axis)), 0, axis)
            values = np.clip(np.floor(moved / (1 << BITS) + 0.5), 0, 255)
    return values.astype(np.uint8)


def nearest(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[H, W] -> [size, size]."""
    rows = [math.floor((i + 0.5) * image.shape[0] / size) for i in range(size)]
    columns = [math.floor((i + 0.5) * image.shape[1] / size) for i in range(size)]
    return image[np.ix_(rows, columns)]


def square(
    rgba: NDArray[np.uint8], cropped: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colour [M, M, 3] and mask [M, M] before any resize: cropped, on white, padded."""
    alpha = rgba[..., 3]
    if cropped:
        ys, xs = np.nonzero(alpha > 0)
        box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        rgba, alpha = rgba[box], alpha[box]
    a = (alpha / 255.0)[..., None]
    colour = ((rgba[..., :3] / 255.0 * a + (1 - a)) * 255).astype(np.uint8)
    height, width = alpha.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    rgb = np.full((side, side, 3), 255, np.uint8)
    mask = np.zeros((side, side), np.uint8)
    rgb[top : top + height, left : left + width] = colour
    mask[top : top + height, left : left + width] = alpha
    return rgb, mask


def framed(
    rgb: NDArray[np.uint8], mask: NDArray[np.uint8], size: int, margin: int
) -> NDArray[np.float32]:
    """Resized, with a margin, resized again. float32 [4, size, size] in [0, 1]."""
    edge = ((margin, margin), (margin, margin))
    rgb, mask = bilinear(rgb, size), nearest(mask, size)
    rgb = np.pad(rgb, (*edge, (0, 0)), constant_values=255)
    mask = np.pad(mask, edge)
    rgb, mask = bilinear(rgb, size), nearest(mask, size)
    return np.concatenate([rgb, mask[..., None]], 2).transpose(2, 0, 1).astype(np.float32) / 255

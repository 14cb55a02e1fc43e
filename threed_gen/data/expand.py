"""From packed bricks to one value per voxel: the inner loop of decoding a sample.

A payload stores only band voxels; a model wants s, band and sharp of all 512 voxels of each brick.
`expand_numpy` is the definition. `expand_warp` does the same in one compiled pass and is used for
large samples, where unpacking in NumPy would dominate the loader's time. Voxels beyond the band
are +1 outside and -1 inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BRICK_VOXELS = 512
BRICK_BYTES = BRICK_VOXELS // 8
# Below this many bricks NumPy is done before a compiled kernel would have been looked up.
COMPILED_FROM_BRICKS = 512
_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


class Expanded(NamedTuple):
    """The per-voxel arrays of B bricks, raster order."""

    sdf: NDArray[np.float32]  # [B, 512]
    band: NDArray[np.bool_]  # [B, 512]
    sharp: NDArray[np.bool_]  # [B, 512]
    signs_agree: bool  # every band value is negative exactly where `inside` says so


def pack_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """bool [B, 512] → uint8 [B, 64]; bit i of the 512 (little-endian in each byte) = voxel i."""
    return np.packbits(flags, axis=1, bitorder="little")


def unpack_bits(packed: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """uint8 [B, 64] → bool [B, 512], the inverse of `pack_bits`."""
    return np.unpackbits(packed, axis=1, bitorder="little").view(np.bool_)


def popcount(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Number of set bits in every byte, same shape."""
    return _BITS_SET[packed]


def expand(
    mask: NDArray[np.uint8],
    inside: NDArray[np.uint8],
    sharp: NDArray[np.uint8],
    values: NDArray[np.float32],
) -> Expanded:
    """Expand mask, inside, sharp [B, 64] and the band values [N] of all bricks in turn."""
    if len(mask) < COMPILED_FROM_BRICKS:
        return expand_numpy(mask, inside, sharp, values)
    return expand_warp(mask, inside, sharp, values)


def expand_numpy(
    mask: NDArray[np.uint8],
    inside: NDArray[np.uint8],
    sharp: NDArray[np.uint8],
    values: NDArray[np.float32],
) -> Expanded:
    """The definition, in plain NumPy."""
    band, within = unpack_bits(mask), unpack_bits(inside)
    sdf = np.where(within, np.float32(-1), np.float32(1))
    sdf[band] = values
    return Expanded(sdf, band, unpack_bits(sharp), bool(np.array_equal(sdf < 0, within)))


def expand_warp(
    mask: NDArray[np.uint8],
    inside: NDArray[np.uint8],
    sharp: NDArray[np.uint8],
    values: NDArray[np.float32],
) -> Expanded:
    """The same in one compiled pass over the bricks (Warp, on the CPU, one thread)."""
    from threed_gen.data import expand_kernel  # Warp takes a second to import: only when needed

    count = len(mask)
    sizes = popcount(mask).sum(axis=1, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes  # int64 [B]: a sample may pass 2^31 voxels
    sdf = np.empty((count, BRICK_VOXELS), np.float32)
    band = np.empty((count, BRICK_VOXELS), np.uint8)
    edge = np.empty((count, BRICK_VOXELS), np.uint8)
    wrong = np.empty(count, np.uint8)
    expand_kernel.run([mask, inside, sharp], values, starts, sdf, [band, edge], wrong)
    return Expanded(sdf, band.view(np.bool_), edge.view(np.bool_), not wrong.any())

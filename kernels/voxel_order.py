"""The one order in which voxels are stored, as an int64 sort key.

Voxels are sorted by (batch, 8³ block, 4³ cell inside the block, voxel inside the cell), each level
lexicographic in (x, y, z). Blocks and cells are then contiguous runs of rows, which is what
attention blocks and brick-wise storage want, and the order of a set of voxels is unique.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 8  # voxels along a block's edge
BLOCK_VOXELS = BLOCK**3
MAX_RESOLUTION = 1 << 16  # 13 bits per block coordinate in the key
MAX_BATCH = 1 << 15


def _canonical_in_block() -> Tensor:
    """Canonical position of every raster index x*64 + y*8 + z of a block. int64 [512]."""
    raster = torch.arange(BLOCK_VOXELS)
    x, y, z = raster >> 6, (raster >> 3) & 7, raster & 7
    cell = ((x >> 2) << 2) | ((y >> 2) << 1) | (z >> 2)
    voxel = ((x & 3) << 4) | ((y & 3) << 2) | (z & 3)
    return (cell << 6) | voxel


CANONICAL_OF_RASTER: Tensor = _canonical_in_block()  # raster index -> canonical position
RASTER_TO_CANONICAL: Tensor = torch.argsort(CANONICAL_OF_RASTER)  # canonical -> raster, to gather


def raster_in_block(coords: Tensor) -> Tensor:
    """x*64 + y*8 + z of voxels [N, 4] inside their 8³ block. int64 [N]."""
    low = (coords[:, 1:] & (BLOCK - 1)).long()
    return (low[:, 0] << 6) | (low[:, 1] << 3) | low[:, 2]


def canonical_key(coords: Tensor) -> Tensor:
    """Sort key of voxels (batch, x, y, z) [N, 4]; ascending keys are the canonical order. [N]."""
    block = coords.long()
    key = block[:, 0]
    for axis in (1, 2, 3):
        key = (key << 13) | (block[:, axis] >> 3)
    return (key << 9) | CANONICAL_OF_RASTER.to(coords.device)[raster_in_block(coords)]


def window_key(coords: Tensor, size: int, shift: int) -> Tensor:
    """One int64 per voxel [N, 4], equal exactly for voxels of the same sample and window.

    Window rule of Direct3D-S2: add the shift to every coordinate and divide by the window size.
    There is no cyclic wrap; windows at the border are just smaller.
    """
    quotient = (coords[:, 1:].long() + shift) // size
    key = coords[:, 0].long()
    for axis in range(3):
        key = (key << 16) | quotient[:, axis]
    return key

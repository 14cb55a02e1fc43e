# mypy: ignore-errors
# (A kernel's annotations speak to Warp's compiler, not to a type checker.)
"""The compiled loop of expand.py: one thread per brick, band values read one after the other."""

from __future__ import annotations

import numpy as np
import warp as wp
from numpy.typing import NDArray

from threed_gen.geometry.warp_runtime import warp_device

wp.set_module_options({"enable_backward": False})


@wp.kernel
def _expand_kernel(
    mask: wp.array2d(dtype=wp.uint8),
    inside: wp.array2d(dtype=wp.uint8),
    sharp: wp.array2d(dtype=wp.uint8),
    values: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.int64),
    sdf: wp.array2d(dtype=wp.float32),
    band: wp.array2d(dtype=wp.uint8),
    edge: wp.array2d(dtype=wp.uint8),
    wrong: wp.array(dtype=wp.uint8),
):
    brick = wp.tid()
    disagree = wp.int32(0)
    cursor = starts[brick]
    for byte in range(64):
        in_band = wp.int32(mask[brick, byte])
        is_inside = wp.int32(inside[brick, byte])
        is_sharp = wp.int32(sharp[brick, byte])
        for bit in range(8):
            voxel = byte * 8 + bit
            flag = (in_band >> bit) & 1
            within = (is_inside >> bit) & 1
            value = wp.float32(1 - 2 * within)
            if flag == 1:
                value = values[cursor]
                cursor += wp.int64(1)
                if (value < wp.float32(0.0)) != (within == 1):
                    disagree = wp.int32(1)
            sdf[brick, voxel] = value
            band[brick, voxel] = wp.uint8(flag)
            edge[brick, voxel] = wp.uint8((is_sharp >> bit) & 1)
    wrong[brick] = wp.uint8(disagree)


def run(
    packed: list[NDArray[np.uint8]],
    values: NDArray[np.float32],
    starts: NDArray[np.int64],
    sdf: NDArray[np.float32],
    flags: list[NDArray[np.uint8]],
    wrong: NDArray[np.uint8],
) -> None:
    """Fill `sdf` [B, 512] and `flags` = band, sharp [B, 512] from mask, inside, sharp [B, 64].

    `wrong` [B] becomes 1 for bricks in which a value's sign is not what `inside` says.
    """
    device = warp_device("cpu")
    arrays = [
        wp.array(np.ascontiguousarray(array), dtype=kind, device=device, copy=False)
        for array, kind in [
            *((array, wp.uint8) for array in packed),
            (values, wp.float32),
            (starts, wp.int64),
            (sdf, wp.float32),
            *((array, wp.uint8) for array in flags),
            (wrong, wp.uint8),
        ]
    ]
    wp.launch(_expand_kernel, dim=len(sdf), inputs=arrays, device=device)

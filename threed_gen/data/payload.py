"""One shape at one resolution as bytes, and back: the payload of format version 1.

A payload is a safetensors file inside one zstd frame. The tensors are the list of active bricks
(which is the latent token list), three 512-bit masks per brick (band, inside, sharp) and the
values of the band voxels alone, as int8 (s * 127) or float16. docs/format.md describes every byte.

Decoding trusts nothing: whatever does not fit is a `CorruptSampleError` that says what is wrong.
`frame.py` has the frame itself, and what later versions may add.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from threed_gen.data.expand import BRICK_BYTES, expand, pack_bits, popcount
from threed_gen.data.frame import (
    MAX_BYTES,
    CorruptSampleError,
    check,
    pack_frame,
    take_bricks,
    take_tensor,
    unpack_frame,
)
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import SparseSDF, check_grid

__all__ = ["CorruptSampleError", "Values", "decode_payload", "encode_payload"]

FORMAT = "threed-gen sdf"
VERSION = 1
SIGN_METHOD = "closed-surface"  # the sign is that of a closed, consistently oriented surface
INT8_STEPS = 127
Values = Literal["int8", "fp16"]
_VALUE_DTYPE = {"int8": "I8", "fp16": "F16"}


def encode_payload(sdf: SparseSDF, values: Values = "int8") -> bytes:
    """The payload of `sdf`; ValueError if it is no valid SparseSDF. Equal input, equal bytes."""
    sdf.validate()
    if len(sdf.bricks) == 0:
        raise ValueError("not a valid SparseSDF: it has no bricks")
    tensors: dict[str, NDArray[Any]] = {
        "brick": sdf.bricks.astype(np.int16),  # [B, 3]
        "inside": pack_bits(sdf.inside),  # [B, 64]
        "mask": pack_bits(sdf.band),  # [B, 64]
        "sdf": _quantise(sdf.values, values),  # [N]
        "sharp": pack_bits(sdf.sharp),  # [B, 64]
    }
    header = {
        "format": FORMAT,
        "version": VERSION,
        "resolution": sdf.resolution,
        "tau": float(sdf.tau),
        "scale": float(sdf.scale),
        "offset": [float(x) for x in sdf.offset],
        "values": values,
        "sign": SIGN_METHOD,
    }
    return pack_frame(tensors, header)


def decode_payload(blob: bytes, max_bytes: int = MAX_BYTES) -> SparseSDF:
    """The SparseSDF of a payload; CorruptSampleError if it is damaged or unpacks to too much."""
    header, tensors = unpack_frame(blob, FORMAT, VERSION, max_bytes)
    resolution, tau, scale, offset, kind = _read_header(header)
    brick = take_bricks(tensors, resolution)
    count = len(brick)
    mask = take_tensor(tensors, "mask", "U8", (count, BRICK_BYTES))
    inside = take_tensor(tensors, "inside", "U8", (count, BRICK_BYTES))
    sharp = take_tensor(tensors, "sharp", "U8", (count, BRICK_BYTES))
    stored = take_tensor(tensors, "sdf", _VALUE_DTYPE[kind], (None,))

    voxels = popcount(mask)  # [B, 64]
    check(bool(voxels.any(axis=1).all()), "a brick has no voxel in the band")
    check(int(voxels.sum(dtype=np.int64)) == len(stored), "mask and sdf differ in voxels")
    check(not bool((sharp & ~mask).any()), "a sharp voxel lies outside the band")
    values = _dequantise(stored, kind)
    full = expand(mask, inside, sharp, values)
    check(full.signs_agree, "the signs of sdf and inside differ")
    return SparseSDF(
        brick.astype(np.int32), full.sdf, full.band, full.sharp, resolution, tau, scale, offset
    )


def _quantise(s: NDArray[np.float32], kind: Values) -> NDArray[Any]:
    """Band values [N] as stored; an inside voxel keeps a negative number even if it is tiny."""
    if kind == "int8":
        steps = np.rint(s * INT8_STEPS).astype(np.int8)
        return np.where((s < 0) & (steps == 0), np.int8(-1), steps)
    if kind == "fp16":
        half = s.astype(np.float16)
        tiny = -np.finfo(np.float16).smallest_subnormal
        # `+ 0` turns the -0.0 of an outside voxel into 0.0: one value, one encoding.
        return np.where((s < 0) & (half == 0), tiny, half + np.float16(0))
    raise ValueError(f"values must be 'int8' or 'fp16', got {kind!r}")


def _dequantise(stored: NDArray[Any], kind: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = stored.astype(np.float32)
    if kind == "int8":
        values = values / np.float32(INT8_STEPS)
    check(bool((np.abs(values) <= 1).all()), "an sdf value lies outside [-1, 1]")  # nor a NaN
    return values


def _read_header(
    header: dict[str, Any],
) -> tuple[int, float, float, tuple[float, float, float], str]:
    resolution, kind = header.get("resolution"), header.get("values")
    check(type(resolution) is int, "its resolution is not an integer")
    check(kind in _VALUE_DTYPE, f"its values are neither {' nor '.join(_VALUE_DTYPE)}")
    tau, scale = _number(header, "tau"), _number(header, "scale")
    offset = header.get("offset")
    check(isinstance(offset, list) and len(offset) == 3, "its offset is not three numbers")
    assert isinstance(resolution, int)
    assert isinstance(kind, str)
    assert isinstance(offset, list)
    x, y, z = (_number({"offset": value}, "offset") for value in offset)
    check(scale > 0, "its scale is not positive")
    try:
        check_grid(resolution, tau)
    except UserError as err:
        raise CorruptSampleError(str(err)) from err
    return resolution, tau, scale, (x, y, z), kind


def _number(header: dict[str, Any], key: str) -> float:
    value = header.get(key)
    check(type(value) in (int, float), f"its {key} is not a number")
    assert isinstance(value, (int, float))
    check(bool(np.isfinite(value)), f"its {key} is not finite")
    return float(value)

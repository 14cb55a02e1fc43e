"""One shape at one resolution as bytes, and back: the payload of format version 1.

A payload is a safetensors file inside one zstd frame. The tensors are the list of active bricks
(which is the latent token list), three 512-bit masks per brick (band, inside, sharp) and the
values of the band voxels alone, as int8 (s * 127) or float16. docs/format.md describes every byte.

Decoding trusts nothing: whatever does not fit is a `CorruptSampleError` that says what is wrong.
Tensors, header keys and metadata that this version does not know are ignored, so that later
versions may add to the format; a newer major version is refused by name.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import zstandard
from numpy.typing import NDArray

from threed_gen.data.expand import BRICK_BYTES, expand, pack_bits, popcount
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import BRICK, SparseSDF, brick_keys, check_grid

FORMAT = "threed-gen sdf"
VERSION = 1
SIGN_METHOD = "closed-surface"  # the sign is that of a closed, consistently oriented surface
MAX_BYTES = 1 << 30  # 1 GiB unpacked is ten times a rich shape at 1024^3: more is no sample
ZSTD_LEVEL = 3
INT8_STEPS = 127
Values = Literal["int8", "fp16"]
_DTYPES = {"I16": np.int16, "U8": np.uint8, "I8": np.int8, "F16": np.float16}
_VALUE_DTYPE = {"int8": "I8", "fp16": "F16"}


class CorruptSampleError(UserError):
    """A stored sample is damaged: the message says what is wrong with it."""


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
    # One metadata key only: safetensors writes several in random order.
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    raw = safetensors.numpy.save(tensors, {"header": text})
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
    )
    return compressor.compress(raw)


def decode_payload(blob: bytes, max_bytes: int = MAX_BYTES) -> SparseSDF:
    """The SparseSDF of a payload; CorruptSampleError if it is damaged or unpacks to too much."""
    raw = _decompress(blob, max_bytes)
    header, tensors = _parse(raw)
    resolution, tau, scale, offset, kind = _read_header(header)
    brick = _tensor(tensors, "brick", "I16", (None, 3))
    count = len(brick)
    mask = _tensor(tensors, "mask", "U8", (count, BRICK_BYTES))
    inside = _tensor(tensors, "inside", "U8", (count, BRICK_BYTES))
    sharp = _tensor(tensors, "sharp", "U8", (count, BRICK_BYTES))
    stored = _tensor(tensors, "sdf", _VALUE_DTYPE[kind], (None,))

    _check(count > 0, "it has no bricks")
    _check(bool(((brick >= 0) & (brick < resolution // BRICK)).all()), "a brick is off the grid")
    keys = brick_keys(brick, resolution)
    _check(bool((keys[1:] > keys[:-1]).all()), "its bricks are not sorted or not unique")
    voxels = popcount(mask)  # [B, 64]
    _check(bool(voxels.any(axis=1).all()), "a brick has no voxel in the band")
    _check(int(voxels.sum(dtype=np.int64)) == len(stored), "mask and sdf differ in voxels")
    _check(not bool((sharp & ~mask).any()), "a sharp voxel lies outside the band")
    values = _dequantise(stored, kind)
    full = expand(mask, inside, sharp, values)
    _check(full.signs_agree, "the signs of sdf and inside differ")
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
    _check(bool((np.abs(values) <= 1).all()), "an sdf value lies outside [-1, 1]")  # nor a NaN
    return values


def _decompress(blob: bytes, max_bytes: int) -> bytes:
    try:
        size = zstandard.frame_content_size(blob)
        if size < 0:
            raise CorruptSampleError("the zstd frame does not say how large its content is")
        if size > max_bytes:
            raise CorruptSampleError(
                f"it claims to unpack to {size} bytes, more than the {max_bytes} allowed"
            )
        return zstandard.ZstdDecompressor().decompress(blob, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise CorruptSampleError(f"the zstd frame is damaged ({err})") from err


def _parse(raw: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        tensors = dict(safetensors.deserialize(raw))  # type: ignore[no-untyped-call]
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["header"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise CorruptSampleError(f"not a readable safetensors file ({err})") from err
    if not isinstance(header, dict):
        raise CorruptSampleError("its header is not a JSON object")
    return header, tensors


def _read_header(
    header: dict[str, Any],
) -> tuple[int, float, float, tuple[float, float, float], str]:
    _check(header.get("format") == FORMAT, f"its format is not '{FORMAT}'")
    version = header.get("version")
    _check(type(version) is int and version >= 1, "its version is not a number")
    if version != VERSION:
        raise CorruptSampleError(
            f"written in format version {version}, this threed-gen reads version {VERSION}: "
            "update threed-gen"
        )
    resolution, kind = header.get("resolution"), header.get("values")
    _check(type(resolution) is int, "its resolution is not an integer")
    _check(kind in _VALUE_DTYPE, f"its values are neither {' nor '.join(_VALUE_DTYPE)}")
    tau, scale = _number(header, "tau"), _number(header, "scale")
    offset = header.get("offset")
    _check(isinstance(offset, list) and len(offset) == 3, "its offset is not three numbers")
    assert isinstance(resolution, int)
    assert isinstance(kind, str)
    assert isinstance(offset, list)
    x, y, z = (_number({"offset": value}, "offset") for value in offset)
    _check(scale > 0, "its scale is not positive")
    try:
        check_grid(resolution, tau)
    except UserError as err:
        raise CorruptSampleError(str(err)) from err
    return resolution, tau, scale, (x, y, z), kind


def _number(header: dict[str, Any], key: str) -> float:
    value = header.get(key)
    _check(type(value) in (int, float), f"its {key} is not a number")
    assert isinstance(value, (int, float))
    _check(bool(np.isfinite(value)), f"its {key} is not finite")
    return float(value)


def _tensor(
    tensors: dict[str, dict[str, Any]], name: str, dtype: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """Tensor `name` as a read-only array, after checking its type and shape (None: any size)."""
    _check(name in tensors, f"tensor '{name}' is missing")
    info = tensors[name]
    found = list(info["shape"])
    fits = len(found) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, found, strict=False)
    )
    _check(info["dtype"] == dtype and fits, f"tensor '{name}' is {info['dtype']} {found}")
    return np.frombuffer(info["data"], dtype=_DTYPES[dtype]).reshape(found)


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise CorruptSampleError(problem)

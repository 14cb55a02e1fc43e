"""What every payload is: safetensors, with one JSON header, inside one zstd frame.

Reading trusts nothing. Whatever does not fit is a `CorruptSampleError` that says what is wrong.
Tensors, header keys and metadata that a reader does not ask for are ignored, so that later
versions may add to a format; a newer major version is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import zstandard
from numpy.typing import NDArray

from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import BRICK, brick_keys

MAX_BYTES = 1 << 30  # 1 GiB unpacked is ten times a rich shape at 1024^3: more is no sample
ZSTD_LEVEL = 3
_DTYPES = {"I16": np.int16, "U8": np.uint8, "I8": np.int8, "F16": np.float16, "F32": np.float32}
Tensors = dict[str, dict[str, Any]]  # as safetensors gives them: dtype, shape, data by name


class CorruptSampleError(UserError):
    """A stored sample is damaged: the message says what is wrong with it."""


def pack_frame(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """One frame of these tensors and this header; equal input, equal bytes."""
    # One metadata key only: safetensors writes several in random order.
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    raw = safetensors.numpy.save(dict(tensors), {"header": text})
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
    )
    return compressor.compress(raw)


def unpack_frame(
    blob: bytes, name: str, version: int, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], Tensors]:
    """Header and tensors of a frame of format `name`, `version`; CorruptSampleError otherwise."""
    header, tensors = _parse(_decompress(blob, max_bytes))
    check(header.get("format") == name, f"its format is not '{name}'")
    found = header.get("version")
    check(type(found) is int and found >= 1, "its version is not a number")
    if found != version:
        raise CorruptSampleError(
            f"written in format version {found}, this threed-gen reads version {version}: "
            "update threed-gen"
        )
    return header, tensors


def take_tensor(
    tensors: Tensors, name: str, dtype: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """Tensor `name` as a read-only array, after checking its type and shape (None: any size)."""
    check(name in tensors, f"tensor '{name}' is missing")
    info = tensors[name]
    found = list(info["shape"])
    fits = len(found) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, found, strict=False)
    )
    check(info["dtype"] == dtype and fits, f"tensor '{name}' is {info['dtype']} {found}")
    return np.frombuffer(info["data"], dtype=_DTYPES[dtype]).reshape(found)


def take_bricks(tensors: Tensors, resolution: int) -> NDArray[np.int16]:
    """Tensor `brick` [B, 3], after checking that it is a token list of that resolution."""
    brick = take_tensor(tensors, "brick", "I16", (None, 3))
    check(len(brick) > 0, "it has no bricks")
    check(bool(((brick >= 0) & (brick < resolution // BRICK)).all()), "a brick is off the grid")
    keys = brick_keys(brick, resolution)
    check(bool((keys[1:] > keys[:-1]).all()), "its bricks are not sorted or not unique")
    return brick


def check(condition: bool, problem: str) -> None:
    """CorruptSampleError(problem) unless the condition holds."""
    if not condition:
        raise CorruptSampleError(problem)


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


def _parse(raw: bytes) -> tuple[dict[str, Any], Tensors]:
    try:
        tensors = dict(safetensors.deserialize(raw))  # type: ignore[no-untyped-call]
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["header"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise CorruptSampleError(f"not a readable safetensors file ({err})") from err
    if not isinstance(header, dict):
        raise CorruptSampleError("its header is not a JSON object")
    return header, tensors

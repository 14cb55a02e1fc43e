"""One latent as bytes, and back: the payload of "threed-gen latent", version 1.

Tensors `brick` int16 [T, 3], `mean` and (where the posterior is stored) `logvar` [T, C] as float32
or float16, in a frame as all payloads have (`data/frame.py`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from threed_gen.data.frame import (
    MAX_BYTES,
    CorruptSampleError,
    Tensors,
    check,
    pack_frame,
    take_bricks,
    take_tensor,
    unpack_frame,
)
from threed_gen.data.latents.latent import Latent, NotFiniteError, check_finite
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import check_grid

FORMAT = "threed-gen latent"
VERSION = 1
Values = Literal["fp32", "fp16"]
Store = Literal["mode", "posterior"]
LOGVAR_RANGE = (-30.0, 20.0)  # to which the SS-VAE's posterior clamps
_NUMPY = {"fp32": np.float32, "fp16": np.float16}
_STORED = {"fp32": "F32", "fp16": "F16"}


def rounded(latent: Latent, name: str, values: Values, store: Store) -> Latent:
    """The latent as a payload gives it back; NotFiniteError if it has numbers that none holds.

    `name` is the sample's, for the error.
    """
    check_finite(latent, name)

    def to_stored(feats: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            back = feats.astype(_NUMPY[values]).astype(np.float32)
        if not np.isfinite(back).all():
            largest = float(np.abs(feats).max())
            raise NotFiniteError(
                f"sample '{name}' at resolution {latent.resolution}: the latent has values up to "
                f"{largest:.3g}, which {values} does not hold"
            )
        return back

    logvar = latent.logvar if store == "posterior" else None
    if store == "posterior" and logvar is None:
        raise ValueError("the posterior is to be stored, and the latent has no logvar")
    return Latent(
        latent.bricks,
        to_stored(latent.mean),
        None if logvar is None else to_stored(logvar),
        latent.resolution,
    )


def encode_latent(latent: Latent, values: Values = "fp32") -> bytes:
    """The payload of a latent that `rounded` gave. Equal input, equal bytes."""
    tensors: dict[str, NDArray[np.generic]] = {
        "brick": latent.bricks.astype(np.int16),  # [T, 3]
        "mean": np.ascontiguousarray(latent.mean, dtype=_NUMPY[values]),  # [T, C]
    }
    if latent.logvar is not None:
        tensors["logvar"] = np.ascontiguousarray(latent.logvar, dtype=_NUMPY[values])  # [T, C]
    header = {
        "format": FORMAT,
        "version": VERSION,
        "resolution": latent.resolution,
        "channels": latent.mean.shape[1],
        "values": values,
    }
    return pack_frame(tensors, header)


def decode_latent(blob: bytes, max_bytes: int = MAX_BYTES) -> Latent:
    """The latent of a payload; CorruptSampleError if it is damaged or unpacks to too much."""
    header, tensors = unpack_frame(blob, FORMAT, VERSION, max_bytes)
    resolution, channels, values = (header.get(k) for k in ("resolution", "channels", "values"))
    check(type(resolution) is int, "its resolution is not an integer")
    check(type(channels) is int and channels >= 1, "its channels are not a positive integer")
    check(values in _STORED, f"its values are neither {' nor '.join(_STORED)}")
    assert isinstance(resolution, int)
    assert isinstance(channels, int)
    try:
        check_grid(resolution, tau=1.0)
    except UserError as err:
        raise CorruptSampleError(str(err)) from err
    bricks = take_bricks(tensors, resolution)
    shape = len(bricks), channels
    mean = _feats(tensors, "mean", str(values), shape)
    logvar = _feats(tensors, "logvar", str(values), shape) if "logvar" in tensors else None
    if logvar is not None:
        low, high = LOGVAR_RANGE
        inside = (logvar >= low) & (logvar <= high)
        check(bool(inside.all()), f"a logvar lies outside [{low:g}, {high:g}]")
    return Latent(bricks.astype(np.int32), mean, logvar, resolution)


def _feats(tensors: Tensors, name: str, values: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """[T, C] as float32, an array of its own, finite."""
    feats = take_tensor(tensors, name, _STORED[values], shape).astype(np.float32)
    check(bool(np.isfinite(feats).all()), f"{name} is not finite")
    return feats

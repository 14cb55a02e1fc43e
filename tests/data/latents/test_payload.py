"""A latent's payload gives back what went in, and names whatever does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import zstandard

from tests.data.fields import random_field
from tests.data.latents.sets import random_latent, same_latent
from threed_gen.data.frame import CorruptSampleError
from threed_gen.data.latents.latent import Latent, NotFiniteError
from threed_gen.data.latents.payload import LOGVAR_RANGE, decode_latent, encode_latent, rounded
from threed_gen.data.payload import decode_payload, encode_payload
from threed_gen.models import posterior


@pytest.fixture
def latent() -> Latent:
    rng = np.random.default_rng(0)
    return random_latent(rng, random_field(rng, 40, 128))


@pytest.mark.parametrize("store", ["mode", "posterior"])
@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_round_trip(latent: Latent, values: Any, store: Any) -> None:
    kept = rounded(latent, "x", values, store)
    blob = encode_latent(kept, values)
    back = decode_latent(blob)
    assert same_latent(back, kept)
    assert encode_latent(back, values) == blob
    assert (back.logvar is None) == (store == "mode")
    if values == "fp32":
        assert same_latent(kept, replace(latent, logvar=kept.logvar))
    else:
        np.testing.assert_allclose(back.mean, latent.mean, rtol=2**-11, atol=2**-25)
        assert not np.array_equal(back.mean, latent.mean)


def test_the_layout_is_the_documented_one(latent: Latent) -> None:
    """Read without this project."""
    raw = zstandard.ZstdDecompressor().decompress(encode_latent(latent, "fp32"))
    tensors = safetensors.numpy.load(raw)
    assert {name: (t.dtype.name, t.shape) for name, t in tensors.items()} == {
        "brick": ("int16", (40, 3)),
        "mean": ("float32", (40, 3)),
        "logvar": ("float32", (40, 3)),
    }
    np.testing.assert_array_equal(tensors["mean"], latent.mean)
    header = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["header"])  # fmt: skip  # noqa: E501
    assert header == {
        "format": "threed-gen latent", "version": 1, "resolution": 128, "channels": 3,
        "values": "fp32",
    }  # fmt: skip


def _repack(blob: bytes, header: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    raw = zstandard.ZstdDecompressor().decompress(blob)
    length = int.from_bytes(raw[:8], "little")
    old = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["header"])
    merged = {**safetensors.numpy.load(raw), **tensors}
    kept = {name: np.ascontiguousarray(t) for name, t in merged.items() if t is not None}
    metadata = {"header": json.dumps({**old, **header})}
    return zstandard.ZstdCompressor().compress(safetensors.numpy.save(kept, metadata))


def test_every_kind_of_nonsense_is_named(latent: Latent) -> None:
    blob = encode_latent(latent)
    bricks = latent.bricks.astype(np.int16)
    nan, high = latent.mean.copy(), np.full_like(latent.mean, LOGVAR_RANGE[1] + 0.1)
    nan[7, 1] = np.nan
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("format is not 'threed-gen latent'", {"format": "threed-gen sdf"}, {}),
        ("version 2.*update", {"version": 2}, {}),
        ("resolution is not", {"resolution": "128"}, {}),
        ("resolution 20", {"resolution": 20}, {}),
        ("resolution -8", {"resolution": -8}, {}),
        ("off the grid", {"resolution": 16}, {}),
        ("channels", {"channels": 0}, {}),
        ("channels", {"channels": True}, {}),
        ("'mean' is F32", {"channels": 4}, {}),
        ("values", {"values": "fp64"}, {}),
        ("'mean' is F32", {"values": "fp16"}, {}),
        ("'mean' is missing", {}, {"mean": None}),
        ("'mean' is F32", {}, {"mean": latent.mean[:-1]}),
        ("'logvar' is F32", {}, {"logvar": latent.mean[:, :2]}),
        ("mean is not finite", {}, {"mean": nan}),
        ("logvar is not finite", {}, {"logvar": nan}),
        ("logvar lies outside", {}, {"logvar": high}),
        ("'brick' is I32", {}, {"brick": latent.bricks}),
        ("not sorted", {}, {"brick": bricks[::-1]}),
        ("not unique", {}, {"brick": np.repeat(bricks[:1], len(bricks), axis=0)}),
        ("no bricks", {}, {"brick": bricks[:0], "mean": nan[:0], "logvar": nan[:0]}),
    ]
    for words, header, tensors in cases:
        with pytest.raises(CorruptSampleError, match=words):
            decode_latent(_repack(blob, header, tensors))
    more = _repack(blob, {"later": 1}, {"later": np.zeros(2)})
    assert same_latent(decode_latent(more), latent)  # what later versions add


def test_damage_never_escapes_as_another_error(latent: Latent) -> None:
    blob = encode_latent(latent)
    raw = zstandard.ZstdDecompressor().decompress(blob)
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(raw)
        broken[rng.integers(400 if rng.random() < 0.7 else len(raw))] = rng.integers(256)
        try:
            decode_latent(zstandard.ZstdCompressor().compress(bytes(broken)))
        except CorruptSampleError:
            continue
    for end in (0, 10, len(blob) // 2, len(blob) - 1):
        with pytest.raises(CorruptSampleError):
            decode_latent(blob[:end])
    with pytest.raises(CorruptSampleError, match="more than the 64 allowed"):
        decode_latent(blob, max_bytes=64)


def test_one_kind_of_payload_is_not_taken_for_the_other(latent: Latent) -> None:
    with pytest.raises(CorruptSampleError, match="format is not 'threed-gen sdf'"):
        decode_payload(encode_latent(latent))
    sdf = encode_payload(random_field(np.random.default_rng(0), 3))
    with pytest.raises(CorruptSampleError, match="format is not 'threed-gen latent'"):
        decode_latent(sdf)


def test_numbers_that_a_payload_cannot_hold_are_refused_by_name(latent: Latent) -> None:
    large = latent.mean.copy()
    large[3, 0] = 1e5
    with pytest.raises(NotFiniteError, match="sample 'mug' at resolution 128: .*1e\\+05.*fp16"):
        rounded(replace(latent, mean=large), "mug", "fp16", "mode")
    rounded(replace(latent, mean=large), "mug", "fp32", "mode")
    large[5] = -np.inf
    with pytest.raises(NotFiniteError, match="'mug'.* mean is not finite in 1 of 40 tokens"):
        rounded(replace(latent, mean=large), "mug", "fp32", "mode")
    with pytest.raises(NotFiniteError, match="logvar is not finite"):
        rounded(replace(latent, logvar=large), "mug", "fp32", "posterior")


def test_the_range_of_logvar_is_the_encoders() -> None:
    assert LOGVAR_RANGE == posterior.LOGVAR_RANGE

"""A payload gives back what went in, is the same bytes each time, and notices damage."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fields import analytic_sphere, random_field, same_field
from threed_gen.data.expand import expand_numpy, expand_warp, pack_bits
from threed_gen.data.payload import CorruptSampleError, decode_payload, encode_payload


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["int8", "fp16"]))
def test_round_trip(seed: int, bricks: int, values: Any) -> None:
    field = random_field(np.random.default_rng(seed), bricks)
    blob = encode_payload(field, values)
    back = decode_payload(blob)
    back.validate()
    np.testing.assert_array_equal(back.bricks, field.bricks)
    np.testing.assert_array_equal(back.band, field.band)
    np.testing.assert_array_equal(back.inside, field.inside)
    np.testing.assert_array_equal(back.sharp, field.sharp)
    np.testing.assert_array_equal(back.sdf[~field.band], field.sdf[~field.band])
    error = np.abs(back.values - field.values)
    # Half a step, or one step where an inside value near zero had to stay negative.
    near_zero = (field.values < 0) & (field.values > -0.5 / 127)
    limit = np.where(near_zero, 1 / 127, 0.5 / 127) if values == "int8" else 5e-4
    assert (error <= limit + 1e-6).all()
    assert (back.tau, back.scale, back.offset) == (field.tau, field.scale, field.offset)
    assert encode_payload(back, values) == blob  # stored values are a fixed point


def test_bit_i_of_the_mask_is_raster_voxel_i() -> None:
    flags = np.zeros((1, 512), dtype=bool)
    flags[0, [0, 9, 511]] = True
    packed = pack_bits(flags)
    assert packed[0, 0] == 1
    assert packed[0, 1] == 2
    assert packed[0, 63] == 128
    assert packed.astype(int).sum() == 131


@pytest.mark.parametrize("bricks", [1, 7, 600])
def test_compiled_expansion_equals_the_definition(bricks: int) -> None:
    field = random_field(np.random.default_rng(bricks), bricks, resolution=128)
    mask, inside, sharp = (pack_bits(f) for f in (field.band, field.inside, field.sharp))
    plain = expand_numpy(mask, inside, sharp, field.values)
    compiled = expand_warp(mask, inside, sharp, field.values)
    assert plain.signs_agree
    assert compiled.signs_agree
    turned = field.values.copy()
    turned[-1] = -turned[-1] if turned[-1] else -1.0
    assert not expand_numpy(mask, inside, sharp, turned).signs_agree
    assert not expand_warp(mask, inside, sharp, turned).signs_agree
    for a, b in zip(plain[:3], compiled[:3], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    back = decode_payload(encode_payload(field, "fp16"))
    np.testing.assert_array_equal(back.band, field.band)


def test_bytes_do_not_depend_on_the_run_and_are_small() -> None:
    field = analytic_sphere(32, 4 / 32)
    blob = encode_payload(field)
    assert all(encode_payload(field) == blob for _ in range(20))
    assert len(blob) < field.num_voxels


def _repack(
    blob: bytes, header: dict[str, Any] | None = None, **tensors: np.ndarray[Any, Any] | None
) -> bytes:
    """A payload with some header keys and tensors replaced (None: removed)."""
    raw = zstandard.ZstdDecompressor().decompress(blob)
    length = int.from_bytes(raw[:8], "little")
    old = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["header"])
    merged = {**safetensors.numpy.load(raw), **tensors}
    metadata = {"header": json.dumps({**old, **(header or {})}), "later": "{}"}
    kept = {name: tensor for name, tensor in merged.items() if tensor is not None}
    return zstandard.ZstdCompressor().compress(safetensors.numpy.save(kept, metadata))


def test_what_later_versions_add_is_ignored() -> None:
    blob = encode_payload(analytic_sphere(32, 4 / 32))
    more = _repack(blob, {"caption": "a ball"}, latents=np.zeros((2, 3), np.float64))
    assert same_field(decode_payload(more), decode_payload(blob))


def test_every_kind_of_nonsense_is_named() -> None:
    field = analytic_sphere(32, 4 / 32)
    blob = encode_payload(field)
    t = safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(blob))
    flipped = t["sdf"].copy()
    flipped[3] = -flipped[3] if abs(flipped[3]) > 0 else -5
    low = t["sdf"].copy()
    low[np.argmin(low)] = -128
    empty = t["mask"].copy()
    empty[0] = 0
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("format", {"format": "other"}, {}),
        ("version 2.*update", {"version": 2}, {}),
        ("version is not", {"version": True}, {}),
        ("resolution is not", {"resolution": 32.0}, {}),
        ("resolution 20", {"resolution": 20}, {}),
        ("off the grid", {"resolution": 24, "tau": 0.2}, {}),
        ("tau is not finite", {"tau": float("nan")}, {}),
        ("tau 1e-05", {"tau": 1e-5}, {}),
        ("scale is not positive", {"scale": -1.0}, {}),
        ("offset", {"offset": [0.0, 1.0]}, {}),
        ("offset", {"offset": [0.0, 1.0, "x"]}, {}),
        ("values", {"values": "int4"}, {}),
        ("'sdf' is I8", {"values": "fp16"}, {}),
        ("'brick' is missing", {}, {"brick": None}),
        ("'brick' is I32", {}, {"brick": t["brick"].astype(np.int32)}),
        ("not sorted", {}, {"brick": t["brick"][::-1].copy()}),
        ("off the grid", {}, {"brick": t["brick"] + np.int16(1)}),
        ("'mask' is U8", {}, {"mask": t["mask"][:-1].copy()}),
        ("no voxel", {}, {"mask": empty}),
        ("mask and sdf", {}, {"sdf": t["sdf"][:-1].copy()}),
        ("sharp", {}, {"sharp": ~t["mask"]}),
        ("signs", {}, {"sdf": flipped}),
        ("signs", {}, {"inside": ~t["inside"]}),
        ("outside \\[-1, 1\\]", {}, {"sdf": low}),
    ]
    for words, header, tensors in cases:
        with pytest.raises(CorruptSampleError, match=words):
            decode_payload(_repack(blob, header, **tensors))
    half = encode_payload(field, "fp16")
    values = safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(half))["sdf"].copy()
    values[0] = np.nan
    with pytest.raises(CorruptSampleError, match="outside"):
        decode_payload(_repack(half, sdf=values))


def test_no_bricks_is_refused_at_both_doors() -> None:
    field = analytic_sphere(32, 4 / 32)
    blob = encode_payload(field)
    nothing = {
        name: tensor[:0].copy()
        for name, tensor in safetensors.numpy.load(
            zstandard.ZstdDecompressor().decompress(blob)
        ).items()
    }
    with pytest.raises(CorruptSampleError, match="no bricks"):
        decode_payload(_repack(blob, **nothing))


def test_flipped_bytes_and_cuts_of_the_frame_are_noticed() -> None:
    blob = encode_payload(analytic_sphere(32, 4 / 32))
    whole = decode_payload(blob)
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(blob)
        broken[rng.integers(len(blob))] ^= 1 << rng.integers(8)
        try:
            assert same_field(decode_payload(bytes(broken)), whole)
        except CorruptSampleError:
            continue
    for end in (0, 3, 10, len(blob) // 2, len(blob) - 1):
        with pytest.raises(CorruptSampleError):
            decode_payload(blob[:end])
    with pytest.raises(CorruptSampleError):
        decode_payload(blob + b"\0")


def test_damage_inside_the_frame_never_escapes_as_another_error() -> None:
    """The frame is intact, its content is not: nothing but CorruptSampleError may come out."""
    raw = zstandard.ZstdDecompressor().decompress(encode_payload(analytic_sphere(32, 4 / 32)))
    rng = np.random.default_rng(1)
    for _ in range(300):
        broken = bytearray(raw)
        broken[rng.integers(500 if rng.random() < 0.7 else len(raw))] = rng.integers(256)
        try:
            decode_payload(zstandard.ZstdCompressor().compress(bytes(broken))).validate()
        except CorruptSampleError:
            continue


def test_a_frame_that_unpacks_to_too_much_is_refused_unread() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    start = time.perf_counter()
    with pytest.raises(CorruptSampleError, match="more than the 1048576 allowed"):
        decode_payload(bomb, max_bytes=1 << 20)
    assert time.perf_counter() - start < 0.1
    stream = zstandard.ZstdCompressor().compressobj()
    unsized = stream.compress(bytes(1 << 20)) + stream.flush()
    with pytest.raises(CorruptSampleError, match="how large"):
        decode_payload(unsized)

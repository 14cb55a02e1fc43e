"""Decoding cube by cube gives what decoding at once gives."""

from __future__ import annotations

import pytest
import torch

from tests.models.shapes import batch, nothing, sphere, tiny_model
from threed_gen.models import chunked_decode


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_equal_the_whole(chunk: int) -> None:
    model, side = tiny_model(), 32 if chunk == 1 else 64
    x = batch([sphere(side, 0.4), nothing(), sphere(side, 0.3, 0.3)], side)
    z = model.encode(x).mean
    whole, pieces = model.decode(z), model.decode(z, chunk=chunk)
    torch.testing.assert_close(pieces.feats, whole.feats, rtol=0, atol=1e-10)
    assert torch.equal(pieces.grid.coords, whole.grid.coords)
    assert pieces.grid.seqlens == whole.grid.seqlens
    assert not pieces.feats.requires_grad


def test_float32_chunks_agree_to_a_millionth() -> None:
    model = tiny_model().float()
    x = batch([sphere(64, 0.4)], 64)
    z = model.encode(x.replace(x.feats.float())).mean
    difference = model.decode(z).feats - model.decode(z, chunk=3).feats
    assert difference.abs().max() <= 1e-6


def test_a_smaller_halo_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_decode, "HALO", 2)
    model = tiny_model()
    z = model.encode(batch([sphere(64, 0.4)], 64)).mean
    assert not torch.allclose(model.decode(z).feats, model.decode(z, chunk=3).feats, atol=1e-12)


def test_nothing_to_decode() -> None:
    model = tiny_model()
    z = model.encode(batch([nothing()], 32)).mean
    assert model.decode(z, chunk=4).feats.shape == (0, 1)


def test_chunk_must_be_positive() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        model.decode(model.encode(batch([sphere(32, 0.3)], 32)).mean, chunk=0)

"""Weights files: exact round trip, every mismatch named, damage noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.shapes import tiny_model
from threed_gen.errors import UserError
from threed_gen.models.weights import load_weights, save_weights


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    source, target = tiny_model(0), tiny_model(1)
    save_weights(source, path, {"model": "ss_vae"})
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    load_weights(target, path)
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_weights_load_into_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_weights(tiny_model(0).half(), path)
    model = tiny_model(1).float()
    load_weights(model, path)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_every_mismatch_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    model = tiny_model(0)
    save_weights(model, path)
    tensors = load_file(path)
    del tensors["encoder.out_layer.bias"], tensors["decoder.input_layer.weight"]
    tensors["decoder.extra"] = torch.zeros(1)
    tensors["decoder.out_layer.weight"] = torch.zeros(1, 99)
    save_file(tensors, path)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "encoder.out_layer.bias is missing",
        "decoder.input_layer.weight is missing",
        "decoder.extra is unknown to the model",
        "decoder.out_layer.weight has shape [1, 99], the model's has [1, 4]",
    ):
        assert part in message
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_missing_and_damaged_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        load_weights(tiny_model(), tmp_path / "none.safetensors")
    path = tmp_path / "model.safetensors"
    save_weights(tiny_model(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors: damaged"):
        load_weights(tiny_model(), path)

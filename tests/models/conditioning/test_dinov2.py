"""Frozen DINOv2: the features of `transformers`' own model, and every way of not getting one."""

from __future__ import annotations

import copy
import json
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.models.conditioning import released
from tests.models.conditioning.pictures import CHANNELS, random_rgba, save_dino
from threed_gen.errors import UserError
from threed_gen.models.conditioning.dinov2 import FrozenDino
from threed_gen.models.conditioning.picture import prepare_picture


def pictures(count: int = 2, size: int = 56) -> torch.Tensor:
    return torch.rand(count, 4, size, size, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_transformers_own_model(tmp_path: Path) -> None:
    """518², with everything before and after the model written here."""
    from transformers import Dinov2WithRegistersModel

    folder = save_dino(tmp_path / "dino", size=518)
    own = Dinov2WithRegistersModel.from_pretrained(folder).eval()
    views = [random_rgba(300, 200, seed=1), random_rgba(180, 640, seed=2)]
    seen = torch.stack(
        [torch.from_numpy(released.framed(*released.square(v), 518, 16)) for v in views]
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (seen[:, :3] - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        hidden = own(normal, output_hidden_states=True).hidden_states[-1]
    expected = F.layer_norm(hidden, (CHANNELS,))
    encoder = FrozenDino(str(folder), 518)
    tokens = encoder(torch.stack([prepare_picture(view, 518) for view in views]))
    assert tokens.shape == (2, 1 + 4 + 37**2, CHANNELS)
    assert encoder.layout.count == 1374
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
    assert (tokens - own.layernorm(hidden)).abs().max() > 0.1  # the model's own norm is left out
    assert float(tokens.std(1).mean()) > 0.1  # tokens differ


def test_order_of_tokens_is_cls_registers_patches(dino: Path) -> None:
    encoder = FrozenDino(str(dino), 56)
    for block in encoder.model.encoder.layer:  # without attention every token is its own
        torch.nn.init.zeros_(block.layer_scale1.lambda1)
    shown = pictures(1)
    before = encoder(shown)
    shown[0, 1, 14 * 2 + 3, 14 * 1 + 5] += 1
    changed = (encoder(shown) != before).any(2)[0]
    assert changed.nonzero().flatten().tolist() == [5 + 2 * 4 + 1]


def test_it_is_frozen_whatever_surrounds_it(dino: Path) -> None:
    encoder = FrozenDino(str(dino), 56)
    shown = pictures().requires_grad_()
    plain = encoder(shown)
    assert not plain.requires_grad
    assert not plain.is_inference()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(shown), plain)
    half = FrozenDino(str(dino), 56, "bf16")(shown)
    assert half.dtype == torch.float32
    assert 1e-4 < (half - plain).abs().max() < 0.2
    assert copy.deepcopy(encoder) is encoder
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_the_mask_is_not_seen(dino: Path) -> None:
    encoder = FrozenDino(str(dino), 56)
    shown = pictures()
    other = shown.clone()
    other[:, 3] = 0
    assert torch.equal(encoder(shown), encoder(other))


def test_identity_is_of_weights_settings_size_and_precision(dino: Path, tmp_path: Path) -> None:
    other = shutil.copytree(dino, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    changed = weights["embeddings.cls_token"]
    changed.view(torch.int32).view(-1)[3] ^= 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    settings = shutil.copytree(dino, tmp_path / "settings")
    text = (settings / "config.json").read_text()
    (settings / "config.json").write_text(
        text.replace('"hidden_act": "gelu"', '"hidden_act": "relu"')
    )
    assert '"relu"' in (settings / "config.json").read_text()
    same = shutil.copytree(dino, tmp_path / "same")
    first = FrozenDino(str(dino), 56).identity()
    assert first == FrozenDino(str(same), 56).identity()
    others = {
        FrozenDino(str(other), 56).identity(),
        FrozenDino(str(settings), 56).identity(),
        FrozenDino(str(dino), 42).identity(),
        FrozenDino(str(dino), 56, "bf16").identity(),
    }
    assert len(others | {first}) == 5


# --- what can go wrong ---------------------------------------------------------------------------


def fails(source: Path | str, message: str, size: int = 56) -> str:
    with pytest.raises(UserError, match=message) as caught:
        FrozenDino(str(source), size)
    assert "\n" not in str(caught.value)
    assert "condition." in str(caught.value)
    return str(caught.value)


def test_wrong_folders_are_named(dino: Path, tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "nowhere: no such folder")
    fails("./nowhere", "no such folder")
    (tmp_path / "void").mkdir()
    fails(tmp_path / "void", "no usable model in .*void")
    fails(dino, "condition.size: 60 must be a multiple of 14", size=60)

    bert = shutil.copytree(dino, tmp_path / "bert")
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    fails(bert, "a model of type bert, it must be dinov2_with_registers")

    bare = shutil.copytree(dino, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    fails(bare, "no usable model in .*bare")

    pickled = shutil.copytree(bare, tmp_path / "pickled")
    torch.save(load_file(dino / "model.safetensors"), pickled / "pytorch_model.bin")
    fails(pickled, "no usable model in .*pickled")  # safetensors only

    half = shutil.copytree(dino, tmp_path / "half")
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:9000])
    fails(half, "no usable model in .*half")

    partial = shutil.copytree(dino, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["encoder.layer.1.mlp.fc1.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    fails(partial, "lack 1 tensors, the first is encoder.layer.1.mlp.fc1.weight")


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloads, and a hub that refuses; no waiting between tries."""
    downloads = tmp_path / "downloads"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(downloads))
    older = "transformers.utils.hub.TRANSFORMERS_CACHE"  # where transformers 4 remembers it
    monkeypatch.setattr(older, str(downloads), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return downloads


def test_without_network_one_line_says_so(unreachable: Path) -> None:
    line = fails("someone/dino", "neither earlier downloads nor the hub give it")
    assert "connect to the network once, or give a folder" in line


def test_what_was_downloaded_before_needs_no_network(
    unreachable: Path, dino: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = unreachable / "models--someone--dino"
    shutil.copytree(dino, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    shown = pictures()
    asked: list[object] = []

    def refuse(address: object, *_rest: object, **_more: object) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert torch.equal(FrozenDino("someone/dino", 56)(shown), FrozenDino(str(dino), 56)(shown))
    assert asked == []
    fails("someone/else", "nor the hub")
    assert asked


def test_without_transformers_one_line_says_so(dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="transformers cannot be loaded .*; run `make setup`"):
        FrozenDino(str(dino), 56)

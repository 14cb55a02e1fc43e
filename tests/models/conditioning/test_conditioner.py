"""Conditioner: from views to packed tokens, with and without stored features."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.conditioning.pictures import CHANNELS, random_rgba, save_dino, transparent
from threed_gen.errors import UserError
from threed_gen.models.conditioning.conditioner import Conditioner, build_conditioner
from threed_gen.models.conditioning.config import ConditionConfig, PatchesConfig
from threed_gen.models.conditioning.picture import prepare_picture
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.randomness import generator

VIEWS = [random_rgba(60, 50, 1), random_rgba(40, 70, 2), transparent(), random_rgba(56, 56, 3)]
NAMES = [f"picture {i}" for i in range(len(VIEWS))]


def with_dino(dino: Path, **changes: Any) -> Conditioner:
    base: dict[str, Any] = {"source": str(dino), "size": 56, "sparse": True, "augment": False}
    return build_conditioner(ConditionConfig(**(base | changes)))


def tokens_of(
    conditioner: Conditioner, chosen: list[int], draw: torch.Generator | None = None
) -> PackedTokens:
    source = conditioner.source
    items = [source.read(VIEWS[i], NAMES[i], draw) for i in chosen]
    return conditioner(source.pack(items))


def same(one: PackedTokens, other: PackedTokens) -> None:
    assert torch.equal(one.feats, other.feats)
    assert torch.equal(one.cu_seqlens, other.cu_seqlens)
    assert one.positions is not None
    assert other.positions is not None
    assert torch.equal(one.positions, other.positions)
    assert one.seqlens == other.seqlens


def test_dino_tokens_are_the_chosen_ones(dino: Path) -> None:
    conditioner = with_dino(dino)
    out = tokens_of(conditioner, [1, 2, 3])
    everything = tokens_of(with_dino(dino, sparse=False), [1, 2, 3])
    assert conditioner.channels == CHANNELS
    assert conditioner.tokens_per_picture == 21
    assert everything.seqlens == (21, 21, 21)
    assert out.seqlens[1] == 5  # a picture of nothing
    assert all(5 < n < 21 for n in (out.seqlens[0], out.seqlens[2]))
    parts, whole = out.feats.split(out.seqlens), everything.feats.unflatten(0, (3, 21))
    assert out.positions is not None
    places = out.positions.split(out.seqlens)
    for sample in range(3):
        rows = [5 + 4 * y + x if z == 0 else None for x, y, z in places[sample].tolist()]
        assert rows[:5] == [None] * 5
        expected = torch.cat([whole[sample, :5], whole[sample, [r for r in rows if r is not None]]])
        assert torch.equal(parts[sample], expected)


def test_a_frozen_encoder_is_no_part_of_the_module(dino: Path) -> None:
    conditioner = with_dino(dino)
    assert not conditioner.trains
    assert not [*conditioner.parameters()]
    assert not conditioner.state_dict()
    assert not [*conditioner.buffers()]
    assert copy.deepcopy(conditioner).encoder is conditioner.encoder
    before = tokens_of(conditioner, [0, 1])
    conditioner.double().train()
    same(tokens_of(conditioner, [0, 1]), before)
    assert not before.feats.requires_grad


def test_the_built_in_encoder_is_trained_along() -> None:
    torch.manual_seed(0)
    config = ConditionConfig(
        encoder="patches", size=64, sparse=True, patches=PatchesConfig(channels=24, heads=2)
    )
    conditioner = build_conditioner(config)
    assert conditioner.trains
    assert conditioner.channels == 24
    assert conditioner.tokens_per_picture == 65
    assert all(name.startswith("encoder.") for name in conditioner.state_dict())
    out = tokens_of(conditioner, [0, 1, 2, 3])
    assert out.seqlens[2] == 1
    (out.feats * torch.randn(24)).sum().backward()
    for name, parameter in conditioner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_no_samples() -> None:
    config = ConditionConfig(encoder="patches", size=64)
    conditioner = build_conditioner(config)
    out = conditioner(conditioner.source.pack([]))
    assert out.feats.shape == (0, conditioner.channels)
    assert out.seqlens == ()


def test_items_go_through_a_worker(dino: Path, tmp_path: Path) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path), cache_precision="fp32")
    source = pickle.loads(pickle.dumps(conditioner.source))
    assert len(pickle.dumps(conditioner.source)) < 5000  # no weights in it
    items = pickle.loads(pickle.dumps([source.read(VIEWS[0], NAMES[0])]))
    same(conditioner(source.pack(items).to("cpu")), tokens_of(with_dino(dino), [0]))


# --- augmentation --------------------------------------------------------------------------------


def pixels(conditioner: Conditioner, key: int | None, identity: str | None = "a") -> torch.Tensor:
    draw = None if key is None else generator(0, key, "view")
    picture = conditioner.source.read(VIEWS[0], identity, draw).picture
    assert picture is not None
    return picture


def test_augmentation_is_of_the_generator_alone() -> None:
    base: dict[str, Any] = {"encoder": "patches", "size": 128}
    fresh = build_conditioner(ConditionConfig(**base))
    plain = prepare_picture(VIEWS[0], 128)
    assert torch.equal(pixels(fresh, None), plain)
    assert torch.equal(pixels(fresh, 1), pixels(fresh, 1, "b"))
    assert len({pixels(fresh, key).sum().item() for key in range(12)}) > 5
    off = build_conditioner(ConditionConfig(**base, augment=False))
    assert torch.equal(pixels(off, 1), plain)


def test_variants_are_few_and_of_the_picture() -> None:
    few = build_conditioner(ConditionConfig(encoder="patches", size=128, variants=3))
    of_a = {pixels(few, key).sum().item() for key in range(20)}
    of_b = {pixels(few, key, "b").sum().item() for key in range(20)}
    assert len(of_a) == len(of_b) == 3
    assert of_a != of_b


# --- stored features -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_hit_says_what_the_miss_said(dino: Path, tmp_path: Path, precision: str) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path), cache_precision=precision)
    first = tokens_of(conditioner, [0, 1, 2, 3])
    assert (conditioner.hits, conditioner.misses) == (0, 4)
    items = [conditioner.source.read(VIEWS[i], NAMES[i]) for i in range(4)]
    assert all(item.picture is None for item in items)
    again = conditioner(conditioner.source.pack(items))
    assert (conditioner.hits, conditioner.misses) == (4, 4)
    same(first, again)
    assert again.feats.dtype == torch.float32
    plain = tokens_of(with_dino(dino), [0, 1, 2, 3])
    if precision == "fp32":
        same(first, plain)
    else:
        assert torch.equal(first.feats, plain.feats.half().float())


def test_only_what_is_missing_is_encoded(dino: Path, tmp_path: Path) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path))
    tokens_of(conditioner, [3, 1])
    seen: list[int] = []
    encoder = conditioner.encoder

    def counted(shown: torch.Tensor) -> torch.Tensor:
        seen.append(len(shown))
        return encoder(shown)

    conditioner.encoder = counted  # type: ignore[assignment]
    source = conditioner.source
    items = [source.read(VIEWS[i], NAMES[i]) for i in (1, 0, 3, 2)]
    batch = source.pack(items)
    assert batch.pictures.shape == (2, 4, 56, 56)
    mixed = conditioner(batch)
    assert seen == [2]
    assert (conditioner.hits, conditioner.misses) == (2, 4)
    parts = [tokens_of(with_dino(dino, cache=str(tmp_path)), [i]) for i in (1, 0, 3, 2)]
    assert torch.equal(mixed.feats, torch.cat([part.feats for part in parts]))
    assert mixed.seqlens == tuple(part.seqlens[0] for part in parts)
    places = [part.positions for part in parts if part.positions is not None]
    assert mixed.positions is not None
    assert torch.equal(mixed.positions, torch.cat(places))
    conditioner(batch)  # the loader looked too early: found now
    assert seen == [2]
    assert (conditioner.hits, conditioner.misses) == (6, 4)


def test_what_was_stored_since_the_loader_looked_is_not_encoded(dino: Path, tmp_path: Path) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path))
    source = conditioner.source
    batch = source.pack([source.read(VIEWS[i], NAMES[i]) for i in (0, 1, 3)])
    tokens_of(conditioner, [0])
    out = conditioner(batch)
    assert (conditioner.hits, conditioner.misses) == (1, 3)
    same(out, tokens_of(conditioner, [0, 1, 3]))
    expected = tokens_of(with_dino(dino), [0, 1, 3])
    torch.testing.assert_close(out.feats, expected.feats, rtol=1e-3, atol=1e-3)


def test_features_are_of_content_variant_and_encoder(dino: Path, tmp_path: Path) -> None:
    def misses(which: Path = dino, name: str = "a", key: int | None = None, **changes: Any) -> int:
        conditioner = with_dino(which, cache=str(tmp_path / "cache"), **changes)
        draw = None if key is None else generator(0, key, "view")
        item = conditioner.source.read(VIEWS[0], name, draw)
        conditioner(conditioner.source.pack([item]))
        assert conditioner.hits + conditioner.misses == 1
        return conditioner.misses

    assert misses() == 1
    assert misses() == 0
    assert misses(name="b") == 1
    assert misses(sparse=False) == 1
    assert misses(precision="bf16") == 1
    assert misses(cache_precision="fp32") == 1
    assert misses(save_dino(tmp_path / "other", seed=9)) == 1
    augmented = {"augment": True, "variants": 3}
    assert misses(**augmented) == 0  # without a generator it is the plain picture
    assert sum(misses(key=key, **augmented) for key in range(15)) == 3


def test_a_picture_without_identity_is_not_kept(dino: Path, tmp_path: Path) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path))
    item = conditioner.source.read(VIEWS[0])
    named = conditioner.source.read(VIEWS[1], "b")
    out = conditioner(conditioner.source.pack([item, named]))
    first, second = out.feats.split(out.seqlens)
    plain, stored = tokens_of(with_dino(dino), [0, 1]).feats.split(out.seqlens)
    assert torch.equal(first, plain)
    assert torch.equal(second, stored.half().float())
    assert len([*tmp_path.rglob("*.safetensors")]) == 1
    assert (conditioner.hits, conditioner.misses) == (0, 2)


def test_damaged_features_stop_with_their_name(dino: Path, tmp_path: Path) -> None:
    conditioner = with_dino(dino, cache=str(tmp_path))
    tokens_of(conditioner, [0])
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="delete it") as caught:
        conditioner.source.read(VIEWS[0], NAMES[0])
    assert str(path) in str(caught.value)

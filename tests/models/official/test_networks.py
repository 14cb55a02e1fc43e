"""Released networks against ours: every name, shape and precision at the official sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.official import released
from threed_gen.config import Config
from threed_gen.errors import UserError
from threed_gen.models.official.networks import (
    SLOTS,
    TARGETS,
    Slot,
    blueprint,
    model_config,
    official_params,
    read_params,
)
from threed_gen.models.official.params import section
from threed_gen.models.official.tensors import (
    check_tensors,
    halved_names,
    rounded_as_released,
    with_constants,
)

# Tensors and parameters of the release, in the order of SLOTS without the second sparse stage.
OFFICIAL = {
    ("1.1", "dense_vae"): (released.dense_vae(), 212, 193.0e6),
    ("1.1", "dense_dit"): (released.dense_dit(), 489, 555.5e6),
    ("1.1", "sparse_vae_512"): (released.sparse_vae(), 116, 37.87e6),
    ("1.1", "sparse_dit_512"): (released.sparse_dit("v1"), 584, 509.3e6),
    ("1.0", "sparse_dit_512"): (released.sparse_dit("v2"), 874, 520.1e6),
    ("1.0", "sparse_vae_1024"): (released.sparse_vae(), 116, 37.87e6),
    ("1.0", "sparse_dit_1024"): (released.sparse_dit("v2"), 874, 520.1e6),
    ("1.1", "sparse_dit_1024"): (released.sparse_dit("v1"), 584, 509.3e6),
}


def slot_named(name: str) -> Slot:
    return next(slot for slot in SLOTS if slot.section == name)


def ours(version: str, name: str, **changes: Any) -> Config:
    tree = released.released_config(version)[name]
    tree["params"] |= changes
    return model_config(read_params(slot_named(name), tree, name), name)


@pytest.mark.parametrize("key", OFFICIAL, ids="-".join)
def test_every_released_tensor_has_its_place(key: tuple[str, str]) -> None:
    shapes, tensors, parameters = OFFICIAL[key]
    network = blueprint(ours(*key))
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert own == shapes
    assert len(shapes) == tensors
    count = sum(value.numel() for value in network.parameters())
    assert count == pytest.approx(parameters, rel=3e-4)
    half = {name for name in shapes if released.halved(name, key[1] == "dense_vae")}
    assert halved_names(network) == half
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert list(check_tensors(network, meta, "file")) == list(network.state_dict())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.section)
def test_arguments_go_there_and_back(version: str, slot: Slot) -> None:
    tree = released.released_config(version)[slot.section]
    params = read_params(slot, tree, slot.section)
    back = section(TARGETS[slot.task], official_params(
        model_config(params, slot.section), slot.resolution, slot.section
    ))  # fmt: skip
    # Everything that the release writes, and nothing else of another value than it has by default.
    assert back["params"] == section("", params)["params"]
    assert back["target"] == tree["target"]


def test_pooling_is_that_of_the_official_code() -> None:
    for name in ("sparse_vae_512", "sparse_dit_512"):
        assert ours("1.1", name).pooling == "released"  # type: ignore[attr-defined]


def test_positions_are_those_of_the_official_pipeline() -> None:
    assert ours("1.1", "sparse_vae_512").position_factor is None  # 512 / 512 = 1
    assert ours("1.1", "sparse_vae_1024").position_factor == 1.0  # ours alone would be 0.5
    assert ours("1.1", "sparse_dit_512").position_factor is None  # 64 / 64
    assert ours("1.1", "sparse_dit_1024").position_factor is None  # 64 / 128, as released
    assert ours("1.1", "sparse_dit_1024", factor=1.0).position_factor == 1.0


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sparse_dit_512", {"share_mod": True}, "share_mod is True"),
        ("sparse_dit_512", {"pe_mode": "rope"}, "only 'ape'"),
        ("sparse_dit_512", {"qk_rms_norm_cross": True}, "qk_rms_norm_cross"),
        ("sparse_dit_512", {"compression_version": "v3"}, "'v1' or 'v2'"),
        ("sparse_dit_512", {"selection_block_size": 16}, "selection_block_size is 16"),
        ("sparse_dit_512", {"sparse_conditions": True, "cond_channels": 768}, "cond_channels"),
        ("sparse_dit_512", {"compresion_version": "v1"}, "did you mean 'compression_version'"),
        ("sparse_vae_512", {"num_heads_decoder": 4}, "num_heads_decoder is 4, only 8"),
        ("sparse_vae_512", {"latents_scale": 2.0}, "latents_scale"),
        ("sparse_vae_512", {"model_channels_encoder": 500}, "model_channels_encoder"),
        ("dense_vae", {"in_channels": 2}, "in_channels is 2"),
        ("dense_dit", {"latent_shape": [8, 16, 16, 8]}, "latent_shape"),
        ("dense_dit", {"num_blocks": "many"}, "num_blocks"),
    ],
)
def test_what_ours_cannot_be_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ours("1.1", name, **changes)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sparse_vae_512", {"encoder_widths": (32, 64, 256, 512)}, "encoder_widths"),
        ("sparse_vae_512", {"norm_groups": 16}, "norm_groups is 16, only 32"),
        ("sparse_vae_512", {"mlp_ratio": 2.0}, "mlp_ratio"),
        ("sparse_vae_512", {"pooling": "mean"}, "pooling is 'mean', only 'released'"),
        ("sparse_dit_512", {"pooling": "mean"}, "pooling is 'mean', only 'released'"),
        ("sparse_vae_512", {"position_factor": 0.5}, "position_factor"),
        ("sparse_dit_512", {"qk_norm": True}, "qk_norm"),
        ("sparse_dit_512", {"head_dim": 64}, "head_dim"),
        ("dense_dit", {"time_scale": 1.0}, "time_scale"),
    ],
)
def test_what_a_release_cannot_say_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    config = ours("1.1", name).model_copy(update=changes)
    with pytest.raises(UserError, match=said):
        official_params(config, 512, "run")


def test_another_class_is_refused() -> None:
    tree = released.released_config("1.1")["dense_vae"] | {"target": "os.system"}
    with pytest.raises(UserError, match="only a DenseShapeVAE"):
        read_params(slot_named("dense_vae"), tree, "config.yaml: dense_vae")


SMALL = released.sparse_vae(64, 2, 1)


def small() -> torch.nn.Module:
    return blueprint(ours(
        "1.1", "sparse_vae_512", model_channels_encoder=64, model_channels_decoder=64,
        num_heads_encoder=2, num_heads_decoder=2, embed_dim=2, num_blocks_encoder=1,
        num_blocks_decoder=1,
    ))  # fmt: skip


BIAS = "encoder.downsample.1.out_layers.0.conv.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({BIAS: None}, f"{BIAS} is missing; "),
        ({BIAS: None, "decoder.out_layer.bias": None}, "is missing (and 1 more)"),
        ({"decoder.extra": torch.zeros(1)}, "decoder.extra is not in this network"),
        ({BIAS: torch.zeros(9)}, f"{BIAS} has shape [9], it must be [16]"),
        ({BIAS: torch.zeros(16, dtype=torch.float64)}, "float64"),
        ({BIAS: torch.full((16,), torch.nan)}, f"{BIAS} holds numbers that are not finite"),
        ({BIAS: [0.0] * 16}, f"{BIAS} is a list"),
        ({BIAS: torch.zeros(16).to_sparse()}, "no plain tensor"),
    ],
)
def test_each_kind_of_defect_is_named_in_one_line(change: dict[str, Any], said: str) -> None:
    state: dict[str, Any] = released.checkpoint(SMALL, 0) | change
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(UserError) as caught:
        check_tensors(small(), state, "model.ckpt: vae")
    assert said in str(caught.value)
    assert str(caught.value).startswith("model.ckpt: vae: ")
    assert "\n" not in str(caught.value)


def test_the_released_mixture_is_made_again() -> None:
    state = released.checkpoint(SMALL, 0)
    wide = {name: tensor.float() for name, tensor in state.items()}
    back = rounded_as_released(small(), wide, "run")
    assert all(back[name].dtype == state[name].dtype for name in state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    wide[BIAS] = torch.full_like(wide[BIAS], 1e5)
    with pytest.raises(UserError, match=r"conv\.bias has weights beyond the range of fp16"):
        rounded_as_released(small(), wide, "run")


def test_a_checkpoint_of_training_gets_its_constant_back() -> None:
    shapes = released.dense_dit(width=24, context=8, latents=2, blocks=1, heads=2, grid=4)
    state = released.checkpoint(shapes, 0)
    config = ours(
        "1.1", "dense_dit", resolution=4, in_channels=2, out_channels=2, model_channels=24,
        cond_channels=8, num_blocks=1, num_heads=2, latent_shape=[2, 4, 4, 4],
    )  # fmt: skip
    network = blueprint(config)
    lacking = {name: tensor for name, tensor in state.items() if name != "pos_emb"}
    whole = check_tensors(network, with_constants(network, lacking), "run")
    # By hand: token (x, y, z) = (0, 2, 3) is number 11; 4 frequencies, sines then cosines.
    omega = 10_000.0 ** (-torch.arange(4) / 4)
    z = torch.cat([(3 * omega).sin(), (3 * omega).cos()])
    assert torch.allclose(whole["pos_emb"][11, 16:], z, atol=1e-6)
    assert torch.equal(whole["pos_emb"], state["pos_emb"])

"""SS-DiT: released sizes and names, all of it by hand, and the same result however it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kernels.ssa import cpu
from tests.models.layers.ssa_by_hand import Sizes, attention_by_hand
from tests.sparse.grids import features, random_grid
from threed_gen.models.layers.cross_attention import PackedTokens, pack_tokens
from threed_gen.models.layers.dit_block import DiTBlock
from threed_gen.models.layers.position import position_embedding
from threed_gen.models.ss_dit import (
    SSDiT,
    SSDiTConfig,
    recommended,
    recomputed_blocks,
    release_1_0,
    release_1_1,
    tiny,
)
from threed_gen.sparse.norm import segment_plan
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

COUNTS, KEYS = [30, 0, 5, 40], [3, 2, 0, 6]
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
OLD: dict[str, Any] = {  # as 1.0, in small
    "compression": "residual", "cell": 4, "project_condition": True, "qk_norm": False,
    "fused_modulation": False,
}  # fmt: skip


def small(seed: int = 0, **changes: Any) -> SSDiT:
    """In float64, and no parameter is zero."""
    torch.manual_seed(seed)
    sizes = {
        "channels": 24,
        "condition_channels": 10,
        "blocks": 2,
        "top_k": 2,
        "latent_channels": 3,
    }
    model = SSDiT(tiny(**(sizes | changes))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noisy(grid: VoxelGrid | None = None) -> SparseTensor:
    grid = random_grid(16, COUNTS) if grid is None else grid
    return SparseTensor(features(grid, 3).requires_grad_(), grid)


def times() -> Tensor:
    return torch.tensor([0.9, 0.5, 0.2, 0.7], dtype=torch.float64)


def condition(seed: int = 2) -> PackedTokens:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 10, generator=generator, dtype=torch.float64) for n in KEYS]
    places = [torch.randint(0, 37, (n, 3), generator=generator) for n in KEYS]
    return pack_tokens(parts, places)


def gradients(out: Tensor, variables: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    return [*torch.autograd.grad((out * weight).sum(), variables)]


def everything(model: SSDiT) -> list[Tensor]:
    x = noisy()
    out = model(x, times(), condition()).feats
    return [out.detach(), *gradients(out, [x.feats, *model.parameters()])]


# --- released sizes ------------------------------------------------------------------------------


def on_meta(config: SSDiTConfig) -> SSDiT:
    with torch.device("meta"):
        return SSDiT(config)


def counts(module: torch.nn.Module) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()
    }


BLOCK = {"norm2": 2_048, "cross_attn": 4_198_400, "mlp": 8_393_728, "adaLN_modulation": 6_297_600}


@pytest.mark.parametrize(
    ("config", "attention", "extra", "total", "printed", "tensors"),
    [
        (release_1_0(), 2_678_528, {"cond_proj": 1_049_600}, 520_083_472, "520.1", 874),
        (release_1_1(), 2_272_384, {}, 509_286_416, "509.3", 584),
    ],
)
def test_released_parameters(
    config: SSDiTConfig, attention: int, extra: dict[str, int], total: int, printed: str,
    tensors: int,
) -> None:  # fmt: skip
    model = on_meta(config)
    block = {**BLOCK, "self_attn": attention}
    assert counts(model.blocks[0]) == block
    parts = {"t_embedder": 1_312_768, "input_layer": 17_408, "out_layer": 16_400, **extra}
    assert counts(model) == {**parts, "blocks": 24 * sum(block.values())}
    assert sum(counts(model).values()) == total
    assert f"{total / 1e6:.1f}" == printed
    assert len(model.state_dict()) == tensors


def test_released_names() -> None:
    found = {
        name: tuple(value.shape) for name, value in on_meta(release_1_0()).state_dict().items()
    }
    wanted: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        wanted[f"{name}.weight"], wanted[f"{name}.bias"] = (out, into), (out,)

    linear("t_embedder.mlp.0", 1024, 256)
    linear("t_embedder.mlp.2", 1024, 1024)
    linear("input_layer", 1024, 16)
    linear("cond_proj", 1024, 1024)
    linear("out_layer", 16, 1024)
    for i in range(24):
        name = f"blocks.{i}"
        wanted[f"{name}.norm2.weight"] = wanted[f"{name}.norm2.bias"] = (1024,)
        linear(f"{name}.cross_attn.to_q", 1024, 1024)
        linear(f"{name}.cross_attn.to_kv", 2048, 1024)
        linear(f"{name}.cross_attn.to_out", 1024, 1024)
        linear(f"{name}.mlp.mlp.0", 4096, 1024)
        linear(f"{name}.mlp.mlp.2", 1024, 4096)
        linear(f"{name}.adaLN_modulation.1", 6144, 1024)
    # Those of the attention are in test_spatial_sparse_attention.py.
    assert wanted == {name: shape for name, shape in found.items() if "self_attn" not in name}


def test_our_sizes() -> None:
    block = on_meta(recommended()).blocks[0]
    assert block.self_attn.q_rms_norm.gamma.shape == (16, 64)
    assert block.self_attn.proj_k.weight.shape == (128, 1024)
    assert block.cross_attn.k_rms_norm.gamma.shape == (16, 64) and block.fused
    assert sum(counts(on_meta(tiny())).values()) < 1e6


# --- by hand -------------------------------------------------------------------------------------


def norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]


def part(w: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name): value for key, value in w.items() if key.startswith(name)}


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def block_by_hand(
    w: dict[str, Tensor], x: Tensor, coords: Tensor, time: Tensor, context: Tensor, sizes: Sizes
) -> Tensor:
    """One sample: x [n, C], time [C], context [s, C']."""
    c = x.shape[1]
    m = linear(w, "adaLN_modulation.1", (time * torch.sigmoid(time))[None])[0]
    shift1, scale1, gate1, shift2, scale2, gate2 = (m[i * c : (i + 1) * c] for i in range(6))
    h = norm(x, 1e-6) * (1 + scale1) + shift1
    x = x + gate1 * attention_by_hand(part(w, "self_attn."), h, coords, sizes)
    h = linear(w, "cross_attn.to_q", norm(x, 1e-6) * w["norm2.weight"] + w["norm2.bias"])
    kv = linear(w, "cross_attn.to_kv", context)
    mixed = torch.zeros(len(x), sizes.heads, sizes.head_dim, dtype=x.dtype)
    if len(context):
        q, k, v = (t.view(-1, sizes.heads, sizes.head_dim) for t in (h, *kv.chunk(2, 1)))
        if "cross_attn.q_rms_norm.gamma" in w:
            q, k = (
                t / t.square().mean(2, keepdim=True).sqrt() * w[f"cross_attn.{n}_rms_norm.gamma"]
                for n, t in (("q", q), ("k", k))
            )
        shares = (torch.einsum("nhd,mhd->hnm", q, k) / sizes.head_dim**0.5).softmax(2)
        mixed = torch.einsum("hnm,mhd->nhd", shares, v)
    x = x + linear(w, "cross_attn.to_out", mixed.flatten(1))
    h = norm(x, 1e-6) * (1 + scale2) + shift2
    return x + gate2 * linear(w, "mlp.mlp.2", gelu(linear(w, "mlp.mlp.0", h)))


def model_by_hand(model: SSDiT, x: SparseTensor) -> Tensor:
    """Sample after sample."""
    w, c, outs = dict(model.named_parameters()), model.config, []
    tokens, t = condition(), times()
    assert tokens.positions is not None
    contexts, places = tokens.feats.split(KEYS), tokens.positions.split(KEYS)
    feats, coords = x.feats.split(COUNTS), x.grid.coords.split(COUNTS)
    frequencies = 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    for b in range(len(COUNTS)):
        waves = 1000 * t[b] * frequencies
        time = linear(w, "t_embedder.mlp.0", torch.cat([waves.cos(), waves.sin()])[None])
        time = linear(w, "t_embedder.mlp.2", time * torch.sigmoid(time))[0]
        context = contexts[b]
        if c.project_condition:
            place = position_embedding(places[b], c.channels, 1.0)
            context = linear(w, "cond_proj", context) + place
        place = position_embedding(coords[b][:, 1:], c.channels, 64 / 16)
        h = linear(w, "input_layer", feats[b]) + place
        for i in range(c.blocks if len(h) else 0):
            sizes = Sizes(c.heads, c.kv_heads, c.head_dim, c.top_k, c.cell, shift=4 * (i % 2))
            h = block_by_hand(part(w, f"blocks.{i}."), h, coords[b], time, context, sizes)
        outs.append(linear(w, "out_layer", norm(h, 1e-5)))
    return torch.cat(outs)


@pytest.mark.parametrize("changes", [{}, {"fused_modulation": False}, OLD | {"head_dim": 16}])
def test_equals_a_loop_over_samples_with_all_gradients(changes: dict[str, Any]) -> None:
    model, x = small(**changes), noisy()
    wanted = model_by_hand(model, x)
    torch.testing.assert_close(model(x, times(), condition()).feats, wanted, **CLOSE)
    wanted_grads = gradients(wanted, [x.feats, *model.parameters()])
    got = everything(model)[1:]
    assert all(bool(g.any()) for g in got), "a parameter without a gradient"
    for a, b in zip(got, wanted_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_windows_shift_in_odd_blocks() -> None:
    model, seen = small(blocks=4), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[3].shift))
    model(noisy(), times(), condition())
    assert seen == [0, 4, 0, 4]


# --- beginnings, samples, precision --------------------------------------------------------------


def test_starts_as_zero_velocity() -> None:
    torch.manual_seed(0)
    model = SSDiT(tiny(latent_channels=3, condition_channels=10))
    out = model(noisy(), times(), condition()).feats
    assert out.shape == (75, 3) and not out.any()
    out.sum().backward()
    assert model.out_layer.weight.grad is not None and model.out_layer.weight.grad.any()
    for block in model.blocks:
        assert isinstance(block, DiTBlock)
        assert not any(p.any() for p in block.adaLN_modulation.parameters())
    assert 0.018 < float(model.t_embedder.mlp[2].weight.detach().std()) < 0.022


def reordered(x: SparseTensor, order: list[int]) -> SparseTensor:
    parts = []
    for sample, old in enumerate(order):
        piece = x.grid.coords.split(COUNTS)[old].clone()
        piece[:, 0] = sample
        parts.append(piece)
    grid = VoxelGrid.from_coords(torch.cat(parts), 16, len(order))[0]
    return SparseTensor(torch.cat([x.feats.split(COUNTS)[old] for old in order]), grid)


@pytest.mark.parametrize("changes", [{}, OLD])
def test_samples_in_another_order(changes: dict[str, Any]) -> None:
    model, x, tokens, order = small(**changes), noisy(), condition(), [3, 2, 0, 1]
    assert tokens.positions is not None
    out = model(x, times(), tokens).split()
    feats, places = tokens.feats.split(KEYS), tokens.positions.split(KEYS)
    moved = pack_tokens([feats[i] for i in order], [places[i] for i in order])
    again = model(reordered(x, order), times()[order], moved).split()
    for sample, old in enumerate(order):
        torch.testing.assert_close(again[sample], out[old], **CLOSE)


@pytest.mark.parametrize("changes", [{}, OLD])
def test_a_sample_does_not_touch_the_others(changes: dict[str, Any]) -> None:
    model, x, tokens, t = small(**changes), noisy(), condition(), times()
    first = model(x, t, tokens).split()
    with torch.no_grad():
        x.feats[: COUNTS[0]] += 1
        tokens.feats[: KEYS[0]] += 1
        t[0] = 0.1
    again = model(x, t, tokens).split()
    same = [torch.equal(a, b) for a, b in zip(first, again, strict=True)]
    assert same == [False, True, True, True]


def test_a_batch_of_nothing() -> None:
    model = small()
    x = noisy(random_grid(16, [0, 0]))
    empty = pack_tokens([torch.zeros(0, 10, dtype=torch.float64)] * 2)
    out = model(x, times()[:2], empty).feats
    assert out.shape == (0, 3)
    out.sum().backward()
    assert model.input_layer.weight.grad is not None


@pytest.mark.parametrize("changes", [{}, OLD])
def test_bf16_autocast_trains(changes: dict[str, Any]) -> None:
    model, x = small(top_k=100, **changes), noisy()
    exact = model(x, times(), condition()).feats
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, times(), condition()).feats
    out.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (out.double() - exact).norm() < 6e-2 * exact.norm()


# --- recomputation, compilation ------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, OLD])
def test_recomputation_changes_no_bit(changes: dict[str, Any]) -> None:
    wanted = everything(small(blocks=3, **changes))
    plain, thin = small().blocks[0].bytes_per_token(8)
    for budget in (None, 75 * (2 * plain + 2 * thin)):
        got = everything(small(blocks=3, checkpoint="blocks", checkpoint_budget=budget, **changes))
        assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_blocks_are_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = {}, []
    for name in ("select_blocks", "combine_forward"):
        honest[name] = getattr(cpu, name)
        monkeypatch.setattr(
            cpu, name, lambda *args, name=name: calls.append(name) or honest[name](*args)
        )
    model = small(blocks=3, checkpoint="blocks")
    everything(model)
    assert calls.count("select_blocks") == 3 and calls.count("combine_forward") == 6
    calls.clear()
    with torch.no_grad():
        model(noisy(), times(), condition())
    assert calls.count("combine_forward") == 3


def test_which_blocks_are_recomputed() -> None:
    def marks(budget: int | None) -> str:
        return "".join("x" if b else "-" for b in recomputed_blocks(6, 10, 100, 10, budget))

    assert marks(None) == marks(0) == marks(1599) == "xxxxxx"
    assert marks(10 * (6 * 10 + 100)) == "xxxxxx"
    assert marks(10 * (3 * 100 + 3 * 10 + 100)) == "-x-x-x"
    assert marks(10 * (4 * 100 + 2 * 10 + 100) - 1) == "-x-x-x"  # one byte short of two blocks
    assert marks(6000) == "------" and marks(5999) == "--x--x"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"fused_modulation": False}, {"qk_norm": False}])
def test_bytes_per_token_are_about_right(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model = small(channels=128, head_dim=32, mlp_ratio=4.0, blocks=1, **changes).to(dtype)
    grid = model.prepare(random_grid(16, [2000]))
    x, block = noisy(grid), model.blocks[0]
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own and t.is_floating_point():
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = model(x, times()[:1], pack_tokens([torch.zeros(2, 10)]))
    measured = sum(kept.values()) / 2000
    assert block.bytes_per_token(dtype.itemsize)[0] == pytest.approx(measured, rel=0.1)
    del out


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks(recompute: bool) -> None:
    model = small(backend="cpu", blocks=1, checkpoint="blocks" if recompute else "none")
    wanted = everything(model)
    torch._dynamo.reset()
    model.compile_blocks(backend="aot_eager")
    got = everything(model)
    for a, b in zip(wanted, got, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


# --- tables, complaints --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, OLD])
def test_prepare_builds_everything_that_is_kept(changes: dict[str, Any]) -> None:
    model = small(**changes)
    x = noisy(model.prepare(random_grid(16, COUNTS)))
    known, plan = set(x.grid._cache), model.plan(x.grid)
    model(x, times(), condition())
    assert set(x.grid._cache) == known and model.plan(x.grid) is plan
    moved = x.grid.to("meta")
    assert model.plan(moved).device.type == segment_plan(moved).rows.device.type == "meta"


def test_complaints() -> None:
    model, x = small(**OLD), noisy()
    tokens = condition()
    with pytest.raises(ValueError, match=r"t: got shape \[3\], it must be \[4\]"):
        model(x, times()[:3], tokens)
    with pytest.raises(ValueError, match="condition: has 1 samples, the tokens have 4"):
        model(x, times(), pack_tokens([tokens.feats]))
    with pytest.raises(ValueError, match="positions are missing"):
        model(x, times(), tokens._replace(positions=None))
    with pytest.raises(ValidationError, match="kv_heads must divide heads"):
        tiny(kv_heads=3)
    with pytest.raises(ValidationError, match="cell must be 4 or 8"):
        tiny(cell=5)
    with pytest.raises(ValidationError, match="window must be even"):
        tiny(window=7)
    with pytest.raises(ValidationError, match="top_k must be at least 1"):
        tiny(top_k=0)

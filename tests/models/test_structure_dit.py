"""Structure DiT: released sizes and names, all of it by hand, and the same however it is asked."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from threed_gen.models.layers.cross_attention import PackedTokens, pack_tokens
from threed_gen.models.layers.dense_dit_block import DenseDiTBlock
from threed_gen.models.structure_dit import StructureDiT, StructureDiTConfig

KEYS = [3, 0, 5]
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
SMALL: dict[str, Any] = {
    "grid": 4, "patch": 2, "latent_channels": 2, "channels": 24, "blocks": 2, "heads": 2,
    "mlp_ratio": 2.0, "condition_channels": 10,
}  # fmt: skip


def small(seed: int = 0, **changes: Any) -> StructureDiT:
    """In float64, and no parameter is zero."""
    torch.manual_seed(seed)
    model = StructureDiT(StructureDiTConfig(**(SMALL | changes))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noisy(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def times() -> Tensor:
    return torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)


def condition(seed: int = 2) -> PackedTokens:
    generator = torch.Generator().manual_seed(seed)
    return pack_tokens([torch.randn(n, 10, generator=generator, dtype=torch.float64) for n in KEYS])


def everything(model: StructureDiT) -> list[Tensor]:
    x = noisy()
    out = model(x, times(), condition())
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), [x, *model.parameters()])]


# --- released sizes ------------------------------------------------------------------------------


def test_released_parameters_and_names() -> None:
    with torch.device("meta"):
        model = StructureDiT(StructureDiTConfig())
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wanted: dict[str, tuple[int, ...]] = {"pos_emb": (4096, 1024)}

    def linear(name: str, out: int, into: int) -> None:
        wanted[f"{name}.weight"], wanted[f"{name}.bias"] = (out, into), (out,)

    linear("t_embedder.mlp.0", 1024, 256)
    linear("t_embedder.mlp.2", 1024, 1024)
    linear("input_layer", 1024, 8)
    linear("out_layer", 8, 1024)
    for i in range(24):
        name = f"blocks.{i}"
        wanted[f"{name}.norm2.weight"] = wanted[f"{name}.norm2.bias"] = (1024,)
        linear(f"{name}.self_attn.to_qkv", 3072, 1024)
        linear(f"{name}.self_attn.to_out", 1024, 1024)
        wanted[f"{name}.self_attn.q_rms_norm.gamma"] = (16, 64)
        wanted[f"{name}.self_attn.k_rms_norm.gamma"] = (16, 64)
        linear(f"{name}.cross_attn.to_q", 1024, 1024)
        linear(f"{name}.cross_attn.to_kv", 2048, 1024)
        linear(f"{name}.cross_attn.to_out", 1024, 1024)
        linear(f"{name}.mlp.mlp.0", 4096, 1024)
        linear(f"{name}.mlp.mlp.2", 1024, 4096)
        linear(f"{name}.adaLN_modulation.1", 6144, 1024)
    assert found == wanted and len(found) == 489
    total = sum(p.numel() for p in model.parameters())
    assert total == 555_543_560 and f"{total / 1e6:.1f}" == "555.5"


# --- by hand -------------------------------------------------------------------------------------


def norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[n, H, D], [m, H, D], [m, H, D] -> [n, H · D]."""
    shares = (torch.einsum("nhd,mhd->hnm", q, k) / q.shape[2] ** 0.5).softmax(2)
    return torch.einsum("hnm,mhd->nhd", shares, v).flatten(1)


def block_by_hand(
    w: dict[str, Tensor], name: str, x: Tensor, time: Tensor, context: Tensor, heads: int,
    qk_norm: bool,
) -> Tensor:  # fmt: skip
    """One sample: x [n, C], time [C], context [s, C']."""
    c = x.shape[1]
    m = linear(w, f"{name}adaLN_modulation.1", (time * torch.sigmoid(time))[None])[0]
    shift1, scale1, gate1, shift2, scale2, gate2 = (m[i * c : (i + 1) * c] for i in range(6))
    h = norm(x, 1e-6) * (1 + scale1) + shift1
    q, k, v = (
        part.reshape(len(x), heads, -1)
        for part in linear(w, f"{name}self_attn.to_qkv", h).split(c, dim=1)
    )
    if qk_norm:
        q, k = (
            part / part.square().mean(2, keepdim=True).sqrt() * w[f"{name}self_attn.{gamma}"]
            for part, gamma in ((q, "q_rms_norm.gamma"), (k, "k_rms_norm.gamma"))
        )
    x = x + gate1 * linear(w, f"{name}self_attn.to_out", attention(q, k, v))
    h = norm(x, 1e-6) * w[f"{name}norm2.weight"] + w[f"{name}norm2.bias"]
    q = linear(w, f"{name}cross_attn.to_q", h).reshape(len(x), heads, -1)
    kv = linear(w, f"{name}cross_attn.to_kv", context).reshape(
        len(context), 2, heads, x.shape[1] // heads
    )
    mixed = attention(q, kv[:, 0], kv[:, 1]) if len(context) else torch.zeros_like(x)
    x = x + linear(w, f"{name}cross_attn.to_out", mixed)
    h = norm(x, 1e-6) * (1 + scale2) + shift2
    return x + gate2 * linear(w, f"{name}mlp.mlp.2", gelu(linear(w, f"{name}mlp.mlp.0", h)))


def place_by_hand(places: list[tuple[int, ...]], channels: int) -> Tensor:
    count = channels // 6
    rows = []
    for place in places:
        row: list[Tensor] = []
        for number in place:
            angle = number * 10_000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
            row += [angle.sin(), angle.cos()]
        rows.append(torch.cat(row))
    return torch.stack(rows)


def model_by_hand(model: StructureDiT, x: Tensor) -> Tensor:
    """Sample after sample, patch after patch."""
    w, c = dict(model.named_parameters()), model.config
    p, count = c.patch, c.grid // c.patch
    places = list(itertools.product(range(count), repeat=3))
    contexts, t, out = condition().feats.split(KEYS), times(), torch.zeros_like(x)
    frequencies = 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    for b in range(len(x)):
        waves = 1000 * t[b] * frequencies
        time = linear(w, "t_embedder.mlp.0", torch.cat([waves.cos(), waves.sin()])[None])
        time = linear(w, "t_embedder.mlp.2", time * torch.sigmoid(time))[0]
        cuts = [tuple(slice(p * n, p * n + p) for n in place) for place in places]
        h = torch.stack([x[(b, slice(None), *cut)].flatten() for cut in cuts])
        h = linear(w, "input_layer", h) + place_by_hand(places, c.channels)
        for i in range(c.blocks):
            name = f"blocks.{i}."
            h = block_by_hand(w, name, h, time, contexts[b], c.heads, c.qk_norm)
        said = linear(w, "out_layer", norm(h, 1e-5))
        for row, cut in zip(said, cuts, strict=True):
            out[(b, slice(None), *cut)] = row.view(-1, p, p, p)
    return out


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"patch": 1, "blocks": 1}])
def test_equals_a_loop_over_samples_with_all_gradients(changes: dict[str, Any]) -> None:
    model, x = small(**changes), noisy()
    wanted = model_by_hand(model, x)
    out, *got = everything(model)
    # The table of positions is float32, as in the release.
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    truth = torch.autograd.grad((wanted * weight).sum(), [x, *model.parameters()])
    assert all(bool(g.any()) for g in got), "a parameter without a gradient"
    for a, b in zip(got, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- beginnings, samples, precision --------------------------------------------------------------


def test_starts_as_zero_velocity() -> None:
    torch.manual_seed(0)
    model = StructureDiT(StructureDiTConfig(**SMALL)).double()
    out = model(noisy(), times(), condition())
    assert out.shape == (3, 2, 4, 4, 4) and not out.any()
    out.sum().backward()
    assert model.out_layer.weight.grad is not None and model.out_layer.weight.grad.any()
    for block in model.blocks:
        assert isinstance(block, DenseDiTBlock)
        assert not any(p.any() for p in block.adaLN_modulation.parameters())


def test_a_sample_does_not_touch_the_others_wherever_it_stands() -> None:
    model, x, tokens, order = small(), noisy(), condition(), [2, 0, 1]
    out = model(x, times(), tokens)
    moved = pack_tokens([tokens.feats.split(KEYS)[i] for i in order])
    again = model(x[order], times()[order], moved)
    torch.testing.assert_close(again, out[order], **CLOSE)
    with torch.no_grad():
        x[0] += 1
        tokens.feats[: KEYS[0]] += 1
    changed = model(x, torch.tensor([0.1, 0.5, 0.2], dtype=torch.float64), tokens)
    assert [torch.equal(a, b) for a, b in zip(changed, out, strict=True)] == [False, True, True]


def test_bf16_autocast_trains() -> None:
    model, x = small(), noisy().detach()
    exact = model(x, times(), condition())
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x.float(), times().float(), condition())
    out.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (out.double() - exact).norm() < 6e-2 * exact.norm()


def test_recomputation_changes_no_bit() -> None:
    wanted = everything(small(blocks=3))
    plain, thin = small().blocks[0].bytes_per_token(8)
    for budget, marks in ((None, [True] * 3), (48 * (plain + thin), [False, True, True])):
        model = small(blocks=3, checkpoint="blocks", checkpoint_budget=budget)
        assert model._recomputed(3) == marks
        assert all(torch.equal(a, b) for a, b in zip(wanted, everything(model), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_bytes_per_token_are_about_right(qk_norm: bool, dtype: torch.dtype) -> None:
    model = small(grid=12, patch=1, channels=128, mlp_ratio=4.0, blocks=1, qk_norm=qk_norm)
    model = model.to(dtype)
    x = torch.randn(1, 2, 12, 12, 12, dtype=dtype, requires_grad=True)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own and t.is_floating_point():
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = model(x, times()[:1], pack_tokens([torch.zeros(2, 10)]))
    measured = sum(kept.values()) / 12**3
    block = model.blocks[0]
    assert isinstance(block, DenseDiTBlock)
    assert block.bytes_per_token(dtype.itemsize)[0] == pytest.approx(measured, rel=0.1)
    del out


# --- loading, complaints -------------------------------------------------------------------------


def test_weights_with_and_without_the_table_of_positions() -> None:
    """Released files carry it, training's checkpoints hold parameters only."""
    model, other = small(), small(seed=5)
    assert "pos_emb" in model.state_dict()
    other.load_state_dict(dict(model.named_parameters()))
    torch.testing.assert_close(other(noisy(), times(), condition()),
                               model(noisy(), times(), condition()), rtol=0, atol=0)  # fmt: skip
    table = torch.ones_like(model.pos_emb)
    other.load_state_dict({**model.state_dict(), "pos_emb": table})
    assert torch.equal(other.pos_emb, table)
    with pytest.raises(RuntimeError, match="Missing key.*input_layer.bias"):
        other.load_state_dict({k: v for k, v in model.state_dict().items() if k[:5] != "input"})
    with pytest.raises(RuntimeError, match="Unexpected key.*pos_embed"):
        other.load_state_dict({**model.state_dict(), "pos_embed": table})


def test_complaints() -> None:
    model, x, tokens = small(), noisy(), condition()
    with pytest.raises(ValueError, match=r"t: got shape \[2\], it must be \[3\]"):
        model(x, times()[:2], tokens)
    with pytest.raises(ValueError, match="condition: has 1 samples, the tokens have 3"):
        model(x, times(), pack_tokens([tokens.feats]))
    with pytest.raises(ValueError, match=r"x: got shape .*, it must be \[B, 2, 4, 4, 4\]"):
        model(x[:, :, :2], times(), tokens)
    with pytest.raises(ValidationError, match="patch 3 must divide grid 16"):
        StructureDiTConfig(patch=3)
    with pytest.raises(ValidationError, match="heads 5 must divide channels 1024"):
        StructureDiTConfig(heads=5)

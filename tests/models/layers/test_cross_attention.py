"""Attention to packed condition tokens against a loop over samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from threed_gen.models.layers import cross_attention as module
from threed_gen.models.layers.cross_attention import (
    CrossAttention,
    CrossPlan,
    cross_plan,
    pack_tokens,
)

QUERIES, KEYS = [7, 0, 1, 12, 5], [3, 4, 0, 1, 9]


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)


def plan_of(queries: list[int], keys: list[int]) -> CrossPlan:
    return cross_plan(starts(queries), queries, starts(keys), keys, torch.float64, 8)


def layer(qk_norm: bool = False) -> CrossAttention:
    torch.manual_seed(0)
    made = CrossAttention(6, 10, 2, 8, qk_norm).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def by_hand(w: dict[str, Tensor], x: Tensor, context: Tensor, qk_norm: bool) -> Tensor:
    outs = []
    for mine, theirs in zip(x.split(QUERIES), context.split(KEYS), strict=True):
        q = (mine @ w["to_q.weight"].t() + w["to_q.bias"]).view(-1, 2, 8)
        k = (theirs @ w["to_kv.weight"][:16].t() + w["to_kv.bias"][:16]).view(-1, 2, 8)
        v = (theirs @ w["to_kv.weight"][16:].t() + w["to_kv.bias"][16:]).view(-1, 2, 8)
        if qk_norm:
            q = q / q.square().mean(2, keepdim=True).sqrt() * w["q_rms_norm.gamma"]
            k = k / k.square().mean(2, keepdim=True).sqrt() * w["k_rms_norm.gamma"]
        out = torch.zeros(len(mine), 2, 8, dtype=x.dtype)
        if len(theirs):
            shares = torch.softmax(torch.einsum("nhd,mhd->hnm", q, k) / 8**0.5, dim=2)
            out = torch.einsum("hnm,mhd->nhd", shares, v)
        outs.append(out.flatten(1) @ w["to_out.weight"].t() + w["to_out.bias"])
    return torch.cat(outs)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((sum(QUERIES), 6), (sum(KEYS), 10))
    x, context = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x.requires_grad_(), context.requires_grad_()


@pytest.mark.parametrize("tile", [512, 4])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_equals_a_loop_over_samples(
    qk_norm: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    attention, (x, context) = layer(qk_norm), inputs()
    out = attention(x, context, plan_of(QUERIES, KEYS))
    wanted = by_hand(dict(attention.named_parameters()), x, context, qk_norm)
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    variables = [x, context, *attention.parameters()]
    grads = [torch.autograd.grad((o * weight).sum(), variables) for o in (out, wanted)]
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_no_condition_gives_zeros() -> None:
    attention, (x, _) = layer(), inputs()
    context = torch.zeros(0, 10, dtype=torch.float64)
    out = attention(x, context, plan_of(QUERIES, [0] * 5))
    assert torch.equal(out, attention.to_out.bias.expand(len(x), 6))
    grads = torch.autograd.grad(out.sum(), [x, *attention.parameters()])
    assert all(bool(g.isfinite().all()) for g in grads)


def test_no_tokens_and_no_samples() -> None:
    attention, (x, context) = layer(), inputs()
    out = attention(x[:0], context, plan_of([0] * 5, KEYS))
    assert out.shape == (0, 6)
    out.sum().backward()
    assert attention.to_kv.weight.grad is not None


def test_samples_are_independent_to_the_bit() -> None:
    attention, (x, context) = layer(), inputs()
    plan = plan_of(QUERIES, KEYS)
    out = attention(x, context, plan)
    with torch.no_grad():
        x[: QUERIES[0]] += 1
        context[: KEYS[0]] += 1
    again = attention(x, context, plan)
    assert not torch.equal(out[: QUERIES[0]], again[: QUERIES[0]])
    assert torch.equal(out[QUERIES[0] :], again[QUERIES[0] :])


def test_memory_stays_linear() -> None:
    """Flash attention takes the padded tiles: no table of all scores, whatever the lengths."""
    attention, (x, context) = layer(), inputs()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert attention(x, context, plan_of(QUERIES, KEYS)).isfinite().all()
    tables = plan_of([2000, 3, 700], [5, 5, 5]).padded
    assert tables is not None
    assert len(tables.sample) == 4 + 1 + 2 and len(tables.queries) == 7 * 512
    assert tables.mask.untyped_storage().nbytes() == 7 * 5


def test_pack_tokens() -> None:
    parts = [torch.ones(2, 3), torch.ones(0, 3), torch.ones(4, 3)]
    packed = pack_tokens(parts, [torch.zeros(len(p), 3, dtype=torch.int32) for p in parts])
    assert packed.seqlens == (2, 0, 4) and packed.cu_seqlens.tolist() == [0, 2, 2, 6]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.feats.shape == (6, 3)
    assert packed.positions is not None and packed.positions.shape == (6, 3)
    moved = packed.to("meta")
    assert moved.feats.is_meta and moved.positions is not None and moved.positions.is_meta


def test_complaint() -> None:
    with pytest.raises(ValueError, match="condition: has 2 samples, the tokens have 3"):
        plan_of([1, 2, 3], [1, 2])

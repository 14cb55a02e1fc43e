"""Modulation by sample against a loop over samples, fused and not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.sparse.grids import random_grid
from threed_gen.models.layers.modulation import (
    TimeEmbedder,
    gated_residual,
    modulated_norm,
    per_token,
)
from threed_gen.sparse.norm import SegmentPlan, segment_plan

COUNTS = [300, 0, 1, 900]  # more and less than the tiles of `segment_sum`
FUSED = [False, True]


def samples(counts: list[int] = COUNTS) -> SegmentPlan:
    return segment_plan(random_grid(16, counts))


def inputs(counts: list[int] = COUNTS) -> list[Tensor]:
    """x, y [N, C] and shift, scale, gate [B, C]."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(counts), 6)] * 2 + [(len(counts), 6)] * 3
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [tensor.requires_grad_() for tensor in made]


def by_hand(x: Tensor, y: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> list[Tensor]:
    normed, gated = [], []
    for b, (mine, other) in enumerate(zip(x.split(COUNTS), y.split(COUNTS), strict=True)):
        centred = mine - mine.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        normed.append(unit * (1 + scale[b]) + shift[b])
        gated.append(mine + gate[b] * other)
    return [torch.cat(normed), torch.cat(gated)]


def both(variables: list[Tensor], plan: SegmentPlan, fused: bool) -> list[Tensor]:
    x, y, shift, scale, gate = variables
    return [
        modulated_norm(x, shift, scale, plan, eps=1e-6, fused=fused),
        gated_residual(x, y, gate, plan, fused=fused),
    ]


@pytest.mark.parametrize("fused", FUSED)
def test_equals_a_loop_over_samples(fused: bool) -> None:
    variables = inputs()
    outs, wanted = both(variables, samples(), fused), by_hand(*variables)
    weight = torch.linspace(-1, 1, outs[0].numel(), dtype=torch.float64).view_as(outs[0])
    for got, want in zip(outs, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
        grads = [
            torch.autograd.grad((o * weight).sum(), variables, allow_unused=True)
            for o in (got, want)
        ]
        for a, b in zip(*grads, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("counts", [[7], [0, 0], [3, 2, 0, 5]])
def test_gradients_by_finite_differences(counts: list[int], fused: bool) -> None:
    plan = samples(counts)
    assert torch.autograd.gradcheck(lambda *v: tuple(both([*v], plan, fused)), inputs(counts))


@pytest.mark.parametrize("fused", FUSED)
def test_half_precision_is_only_rounded(fused: bool) -> None:
    variables, plan = inputs(), samples()
    rounded = [v.detach().bfloat16().requires_grad_() for v in variables]
    exact = [v.detach().double().requires_grad_() for v in rounded]
    results = []
    for these in (rounded, exact):
        outs = both(these, plan, fused)
        assert all(out.dtype == these[0].dtype for out in outs)
        grads = torch.autograd.grad(sum(out.square().sum() for out in outs), these)
        results.append([*outs, *grads])
    for got, want in zip(*results, strict=True):
        assert (got.double() - want).norm() < 1e-2 * want.norm()


def test_fused_keeps_no_more_than_its_input() -> None:
    kept: list[int] = []
    x, y, shift, scale, gate = (v.detach().float().requires_grad_() for v in inputs())
    for fused in FUSED:
        seen: set[tuple[int, int]] = set()

        def note(t: Tensor, seen: set[tuple[int, int]] = seen) -> Tensor:
            seen.add((t.data_ptr(), t.numel() * (t.numel() >= x.numel())))
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            outs = both([x, y, shift, scale, gate], samples(), fused)
        kept.append(sum(size for _, size in seen))
        del outs
    assert kept[1] == 2 * x.numel() < kept[0]  # x and y


def test_one_sample_does_not_touch_another() -> None:
    shift = inputs()[2]
    table = per_token(shift, samples())
    (grad,) = torch.autograd.grad(table[300].sum(), shift)  # the only token of sample 2
    assert grad.tolist() == [[0.0] * 6, [0.0] * 6, [1.0] * 6, [0.0] * 6]


def test_time_embedding_is_cosines_then_sines() -> None:
    embedder = TimeEmbedder(256, 1000.0).double()
    embedder.mlp = torch.nn.Identity()  # type: ignore[assignment]
    embedder.mlp.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    waves = embedder(t)
    for row, time in zip(waves, t.tolist(), strict=True):
        for j in (0, 1, 64, 127):
            angle = 1000 * time * 10_000.0 ** (-j / 128)
            assert float(row[j]) == pytest.approx(math.cos(angle), abs=1e-9)
            assert float(row[128 + j]) == pytest.approx(math.sin(angle), abs=1e-9)

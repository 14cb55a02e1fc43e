"""The loss per sample in fp32, and its sums by time bin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threed_gen.flow.loss import by_time_bin, flow_loss, time_bin_means

LENGTHS = [5, 0, 3000, 1]


def pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    predicted, target = torch.randn(2, sum(LENGTHS), 16, generator=random).to(dtype)
    return predicted, target


def test_mean_over_tokens_and_channels_of_each_sample() -> None:
    predicted, target = pair(torch.float64)
    loss = flow_loss(predicted, target, LENGTHS)
    for got, p, q in zip(loss, predicted.split(LENGTHS), target.split(LENGTHS), strict=True):
        expected = torch.nn.functional.mse_loss(p, q) if len(p) else torch.zeros(()).double()
        torch.testing.assert_close(got, expected)


def test_long_samples_do_not_outweigh_short_ones() -> None:
    """Means over tokens first, then over samples: 1 token off by 2 and 3 right: (4 + 0) / 2."""
    predicted = torch.tensor([[2.0], [0.0], [0.0], [0.0]])
    assert flow_loss(predicted, torch.zeros(4, 1), [1, 3]).mean().item() == 2.0


def test_empty_sample_gives_zero_and_no_gradient() -> None:
    predicted, target = pair()
    predicted.requires_grad_()
    loss = flow_loss(predicted, target, LENGTHS)
    assert loss[1].item() == 0.0
    (grad,) = torch.autograd.grad(loss.sum(), predicted)
    assert bool(grad.isfinite().all())
    nothing = torch.zeros(0, 4, requires_grad=True)
    flow_loss(nothing, torch.zeros(0, 4), [0, 0]).sum().backward()
    assert nothing.grad is not None and nothing.grad.shape == (0, 4)
    assert flow_loss(torch.zeros(0, 4), torch.zeros(0, 4), []).shape == (0,)


def test_gradient_is_that_of_the_mean() -> None:
    predicted, target = pair(torch.float64)
    predicted.requires_grad_()
    (grad,) = torch.autograd.grad(flow_loss(predicted, target, LENGTHS).sum(), predicted)
    counts = torch.tensor([max(n, 1) * 16 for n in LENGTHS]).repeat_interleave(
        torch.tensor(LENGTHS)
    )
    torch.testing.assert_close(grad, 2 * (predicted - target).detach() / counts[:, None])


def test_fp32_under_bf16_autocast() -> None:
    """Velocities near 100 that differ by little: in bf16 the squares would be far off."""
    predicted = (torch.linspace(90, 110, 4000)[:, None]).bfloat16()
    target = torch.linspace(90.3, 110.3, 4000)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow_loss(predicted, target, [4000])
    assert loss.dtype == torch.float32
    expected = (predicted.double() - target.double()).square().mean()
    torch.testing.assert_close(loss[0].double(), expected, rtol=1e-5, atol=0)


def test_same_bits_on_any_number_of_ranks() -> None:
    predicted, target = pair()
    whole = flow_loss(predicted, target, LENGTHS)
    cut = sum(LENGTHS[:2])
    first = flow_loss(predicted[:cut], target[:cut], LENGTHS[:2])
    second = flow_loss(predicted[cut:], target[cut:], LENGTHS[2:])
    assert torch.equal(whole, torch.cat([first, second]))


def test_bins_add_up_to_the_total() -> None:
    random = torch.Generator().manual_seed(8)
    loss, t = torch.rand(2, 100, generator=random)
    t = t * 0.55  # the upper bins stay empty
    rows = by_time_bin(loss, t)
    assert rows.shape == (100, 2, 10)
    means = time_bin_means(rows.sum(0))
    assert sum(found.samples for found in means.values()) == 100
    total = sum(found.mean * found.samples for found in means.values()) / 100
    assert total == pytest.approx(loss.mean().item(), rel=1e-6)
    assert list(means) == [f"0.{k}0-0.{k + 1}0" for k in range(6)]
    inside = loss[(t >= 0.2) & (t < 0.3)]
    assert means["0.20-0.30"].mean == pytest.approx(inside.mean().item(), rel=1e-6)
    assert means["0.20-0.30"].samples == len(inside)


def test_bins_of_ranks_and_steps_add() -> None:
    loss, t = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.05, 0.95, 0.06])
    parts = by_time_bin(loss[:1], t[:1]).sum(0) + by_time_bin(loss[1:], t[1:]).sum(0)
    assert torch.equal(parts, by_time_bin(loss, t).sum(0))
    assert time_bin_means(parts) == {"0.00-0.10": (2.5, 2.0), "0.90-1.00": (2.0, 1.0)}


def test_bins_at_their_edges() -> None:
    rows = by_time_bin(torch.ones(4), torch.tensor([0.0, 0.25, 0.5, 1.0]), bins=4)
    assert rows[:, 1].argmax(1).tolist() == [0, 1, 2, 3]


def test_no_samples_give_no_bins() -> None:
    assert time_bin_means(by_time_bin(torch.zeros(0), torch.zeros(0)).sum(0)) == {}


def test_an_overflow_stays_in_its_bin() -> None:
    rows = by_time_bin(torch.tensor([math.inf, 3.0]), torch.tensor([0.9, 0.1]), bins=2)
    means = time_bin_means(rows.sum(0))
    assert means["0.00-0.50"].mean == 3.0 and means["0.50-1.00"].mean == math.inf


def test_bins_carry_no_gradient() -> None:
    assert not by_time_bin(torch.ones(2, requires_grad=True), torch.zeros(2)).requires_grad

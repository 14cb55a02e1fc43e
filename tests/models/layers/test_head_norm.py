"""RMS norm of attention heads."""

from __future__ import annotations

import torch

from threed_gen.models.layers.head_norm import HeadRMSNorm


def test_by_hand() -> None:
    norm = HeadRMSNorm(2, 4).double()
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 0.5, 0.5]]))
    x = torch.tensor([[[2.0, 2.0, -2.0, 2.0], [3.0, 0.0, 0.0, 4.0]]], dtype=torch.float64)
    root = (25 / 4) ** 0.5
    wanted = [[1.0, 2.0, -3.0, 4.0], [3.0 / root, 0.0, 0.0, 2.0 / root]]
    torch.testing.assert_close(norm(x)[0], torch.tensor(wanted).double())


def test_starts_at_one_and_keeps_the_dtype() -> None:
    norm = HeadRMSNorm(3, 32)
    x = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(0)) * 1e-3
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(5, 3))
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), norm(x), rtol=1e-2, atol=1e-2)


def test_zeros_stay_zero_with_a_finite_gradient() -> None:
    norm = HeadRMSNorm(1, 8)
    x = torch.zeros(2, 1, 8, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    assert not out.any() and x.grad is not None and x.grad.isfinite().all()

"""Means over runs of rows, and their gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from kernels.ssa import segment_mean

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STARTS = torch.tensor([0, 1, 40, 43, 60], dtype=torch.int32)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("width", [1, 20, 300])
def test_means_and_gradients(width: int, backend: str) -> None:
    x = torch.randn(60, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.stack([x[a:b].double().mean(0) for a, b in itertools.pairwise(STARTS.tolist())])
    device = DEVICE if backend == "triton" else "cpu"
    got = segment_mean(x.to(device), STARTS.to(device), backend)
    torch.testing.assert_close(got.cpu().double(), wanted, rtol=1e-6, atol=1e-6)
    weight = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    have = torch.autograd.grad((got.cpu() * weight).sum(), x)[0]
    want = torch.autograd.grad((wanted * weight).sum(), x)[0]
    torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-6)


def test_in_float64_by_finite_differences() -> None:
    x = torch.randn(60, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segment_mean(x, STARTS, "cpu"), x)


def test_no_rows() -> None:
    empty = segment_mean(torch.zeros(0, 4), torch.zeros(1, dtype=torch.int32))
    assert empty.shape == (0, 4)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_pytorch_s_own_checks_of_operators(backend: str) -> None:
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    op = torch.ops.threed_gen.segment_mean.default
    x = torch.randn(60, 4).requires_grad_()
    torch.library.opcheck(op, (x, STARTS, backend), test_utils=utils)


def test_complaints() -> None:
    with pytest.raises(ValueError, match="x_NC: got shape"):
        segment_mean(torch.zeros(60), STARTS)
    with pytest.raises(ValueError, match="starts: got torch.int64"):
        segment_mean(torch.zeros(60, 2), STARTS.long())

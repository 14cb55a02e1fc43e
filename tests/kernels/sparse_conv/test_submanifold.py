"""What dense conv3d does, shown by impulses; then the fast functions against it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kernels.sparse_conv import submanifold
from kernels.sparse_conv.gemm import add_outer, multiply
from kernels.sparse_conv.plan import offsets, upsample_rows
from kernels.sparse_conv.reference import submanifold_conv_reference
from kernels.sparse_conv.submanifold import submanifold_conv, upsample_conv
from tests.sparse.grids import dense_conv, dense_weight, features, full_grid, grid_of, random_grid


@pytest.fixture
def weights() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(27, 3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)


def test_dense_conv3d_correlates() -> None:
    """out[p] = sum_d in[p + d] * weight[d + 1]: an impulse at q shows up at p = q - d."""
    image = torch.zeros(1, 1, 5, 5, 5)
    image[0, 0, 2, 2, 2] = 1.0
    weight = torch.arange(27.0).view(1, 1, 3, 3, 3)
    out = F.conv3d(image, weight, padding=1)[0, 0]
    for a in range(3):
        for b in range(3):
            for c in range(3):
                assert out[2 - (a - 1), 2 - (b - 1), 2 - (c - 1)] == weight[0, 0, a, b, c]


def test_kernel_index_is_x_fastest() -> None:
    kernel = torch.arange(27.0).view(27, 1, 1)
    weight = dense_weight(kernel)[0, 0]
    for k, (dx, dy, dz) in enumerate(offsets().tolist()):
        assert weight[dx + 1, dy + 1, dz + 1] == k


@pytest.mark.parametrize("conv", [submanifold_conv_reference, submanifold_conv])
def test_an_impulse_shows_up_where_the_formula_says(conv) -> None:
    grid = full_grid(5)
    place = {tuple(v): row for row, v in enumerate(grid.coords[:, 1:].tolist())}
    x = torch.zeros(125, 1, dtype=torch.float64)
    x[place[2, 2, 2]] = 1.0
    kernel = torch.arange(1.0, 28.0, dtype=torch.float64).view(27, 1, 1)
    out = conv(x, kernel, None, grid.neighbour_rows())
    expected = torch.zeros_like(out)
    for k, (dx, dy, dz) in enumerate(offsets().tolist()):
        expected[place[2 - dx, 2 - dy, 2 - dz]] = kernel[k, 0, 0]
    assert torch.equal(out, expected)


@pytest.mark.parametrize("rows_per_chunk", [1 << 21, 1], ids=["one chunk", "many chunks"])
def test_fast_function_equals_dense_with_all_gradients(
    weights, rows_per_chunk, monkeypatch
) -> None:
    monkeypatch.setattr(submanifold, "CPU_BUFFER_BYTES", rows_per_chunk)
    kernel, bias = (w.requires_grad_() for w in weights)
    grid = random_grid(12, [700, 0, 300])
    x = features(grid, 3).requires_grad_()
    out = submanifold_conv(x, kernel, bias, grid.neighbour_rows())
    expected = dense_conv(x, kernel, bias, grid)
    upstream = features(grid, 5, seed=2)
    got = torch.autograd.grad(out, (x, kernel, bias), upstream)
    want = torch.autograd.grad(expected, (x, kernel, bias), upstream)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


def test_gradcheck_of_both_functions() -> None:
    torch.manual_seed(0)
    grid = random_grid(4, [9, 0, 5])
    rows = grid.neighbour_rows()
    x = features(grid, 2).requires_grad_()
    kernel = torch.randn(27, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: submanifold_conv(*t, rows), (x, kernel, bias))
    tables = upsample_rows(rows)
    assert torch.autograd.gradcheck(lambda *t: upsample_conv(*t, *tables), (x, kernel, bias))


def test_without_bias_and_with_parts_that_need_no_gradient(weights) -> None:
    kernel, _ = weights
    grid = random_grid(6, [80])
    x = features(grid, 3)
    out = submanifold_conv(x, kernel.requires_grad_(), None, grid.neighbour_rows())
    (grad,) = torch.autograd.grad(out.square().sum(), (kernel,))
    expected = dense_conv(x, kernel, None, grid)
    (want,) = torch.autograd.grad(expected.square().sum(), (kernel,))
    torch.testing.assert_close(grad, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1])
def test_no_voxel_and_one_voxel(weights, count) -> None:
    kernel, bias = (w.requires_grad_() for w in weights)
    grid = grid_of([[0, 3, 2, 1]] * count, 8, 1)
    x = features(grid, 3).requires_grad_()
    out = submanifold_conv(x, kernel, bias, grid.neighbour_rows())
    torch.testing.assert_close(out, x @ kernel[13] + bias)
    out.sum().backward()
    assert kernel.grad is not None and kernel.grad.isfinite().all()
    assert bool(kernel.grad.any()) == bool(count)


def test_float32_is_as_exact_as_float32_can_be(weights) -> None:
    """In fp32 the products run through oneDNN, in float64 they do not: both must agree."""
    grid = random_grid(16, [900, 700])
    rows = grid.neighbour_rows()
    wide = [features(grid, 24), torch.randn(27, 24, 16).double(), torch.randn(16).double()]
    results = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in wide]
        out = submanifold_conv(*leaves, rows)
        grads = torch.autograd.grad(out, leaves, features(grid, 16, seed=9).to(dtype))
        results.append([out, *grads])
    for exact, single in zip(*results, strict=True):
        assert (single.double() - exact).norm() <= 1e-6 * exact.norm()


def test_bf16_autocast_computes_in_bf16_and_accumulates_in_fp32() -> None:
    torch.manual_seed(0)
    grid = random_grid(12, [800])
    x = features(grid, 8).float().requires_grad_()
    kernel = torch.randn(27, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = submanifold_conv(x, kernel, None, grid.neighbour_rows())
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    exact_x, exact_kernel = x.detach().clone().requires_grad_(), kernel.detach().clone()
    exact_kernel.requires_grad_()
    exact = submanifold_conv(exact_x, exact_kernel, None, grid.neighbour_rows())
    exact.square().sum().backward()
    for half, full in ((out, exact), (x.grad, exact_x.grad), (kernel.grad, exact_kernel.grad)):
        assert (half.float() - full).norm() <= 8e-3 * full.norm()


def test_the_same_bits_every_time(weights) -> None:
    kernel, bias = (w.float() for w in weights)
    grid = random_grid(12, [900])
    runs = []
    for _ in range(3):
        x = features(grid, 3).float().requires_grad_()
        out = submanifold_conv(x, kernel, bias, grid.neighbour_rows())
        runs.append((out, *torch.autograd.grad(out.square().sum(), x)))
    for out, grad in runs[1:]:
        assert torch.equal(out, runs[0][0]) and torch.equal(grad, runs[0][1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 63, 64, 200])
def test_products(dtype, rows) -> None:
    torch.manual_seed(rows)
    a, b, g = (torch.randn(s).to(dtype) for s in ((rows, 40), (40, 6), (rows, 6)))
    bias, out = torch.randn(6).to(dtype), torch.empty(rows, 6, dtype=dtype)
    tolerance = {"rtol": 2e-2, "atol": 2e-1} if dtype == torch.bfloat16 else {}
    multiply(a, b, bias, out)
    torch.testing.assert_close(out, a @ b + bias, **tolerance)
    total = torch.ones(6, 40, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    add_outer(total, g, a)
    torch.testing.assert_close(total, (g.t() @ a + 1).to(total.dtype), **tolerance)

"""All backends of SubmanifoldConv3d against dense conv3d, values and every gradient."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from tests.sparse.grids import dense_conv, features, full_grid, grid_of, random_grid
from threed_gen.errors import UserError
from threed_gen.sparse import conv as conv_module
from threed_gen.sparse.conv import SubmanifoldConv3d
from threed_gen.sparse.pool import subdivide
from threed_gen.sparse.sparse_tensor import SparseTensor

BACKENDS = ["reference", "torch", "spconv"]
GRIDS = {
    "random": random_grid(12, [500, 900]),
    "full": full_grid(6, 2),
    "with an empty sample": random_grid(9, [200, 0, 100], seed=5),
    "one voxel": grid_of([[0, 0, 7, 3]], 8, 1),
    "empty": grid_of([], 8, 2),
    "last sample empty": random_grid(8, [50, 0], seed=6),
}


def layer(backend: str, bias: bool = True, channels: tuple[int, int] = (3, 4)) -> SubmanifoldConv3d:
    torch.manual_seed(0)
    return SubmanifoldConv3d(*channels, bias=bias, backend=backend).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_dense_conv3d(backend: str, name: str, bias: bool) -> None:
    grid, conv = GRIDS[name], layer(backend, bias)
    x = features(grid, 3).requires_grad_()
    leaves = [x, *conv.parameters()]
    out = conv(SparseTensor(x, grid)).feats
    expected = dense_conv(x, conv.kernel, conv.bias, grid)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    upstream = features(grid, 4, seed=2)
    got = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
    want = torch.autograd.grad(expected, leaves, upstream)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_impulse_lands_at_minus_the_offset(backend: str) -> None:
    """An impulse at q reads kernel[k] at q - offset_k, for an asymmetric kernel."""
    grid, conv = full_grid(5), layer(backend, bias=False, channels=(1, 1))
    place = {tuple(v): row for row, v in enumerate(grid.coords[:, 1:].tolist())}
    with torch.no_grad():
        conv.kernel.copy_(torch.arange(1.0, 28.0).view(27, 1, 1))
    x = torch.zeros(125, 1, dtype=torch.float64)
    x[place[2, 2, 2]] = 1.0
    out = conv(SparseTensor(x, grid)).feats[:, 0]
    for k in range(27):
        offset = (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)
        assert out[place[tuple(2 - d for d in offset)]] == k + 1
    assert out.sum() == 27 * 28 / 2


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_folded_convolution_is_subdivide_then_convolve(backend: str, name: str) -> None:
    grid, conv = GRIDS[name], layer(backend)
    x = features(grid, 3).requires_grad_()
    leaves = [x, *conv.parameters()]
    out = conv(SparseTensor(x, grid), subdivided=True)
    plain = subdivide(SparseTensor(x, grid))
    assert out.grid is plain.grid
    expected = dense_conv(plain.feats, conv.kernel, conv.bias, plain.grid)
    torch.testing.assert_close(out.feats, expected, rtol=1e-10, atol=1e-10)
    upstream = features(out.grid, 4, seed=3)
    got = torch.autograd.grad(out.feats, leaves, upstream, allow_unused=True)
    want = torch.autograd.grad(expected, leaves, upstream)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


def test_spconv_trains_in_float32_on_cpu() -> None:
    grid, conv = GRIDS["random"], layer("spconv").float()
    x = features(grid, 3).float()
    out = conv(SparseTensor(x, grid)).feats
    out.sum().backward()
    expected = layer("reference")(SparseTensor(x.double(), grid)).feats
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_spconv_says_that_it_has_no_bf16() -> None:
    grid, conv = GRIDS["random"], layer("spconv").float()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UserError, match="cannot compute in bfloat16 on cpu"),
    ):
        conv(SparseTensor(features(grid, 3).float(), grid))


def test_importing_the_layer_does_not_import_spconv() -> None:
    import subprocess

    code = "import sys, threed_gen.sparse.conv; sys.exit('spconv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_says_once_what_it_picked(caplog: pytest.LogCaptureFixture) -> None:
    conv_module._announce.cache_clear()
    grid, conv = GRIDS["random"], layer("auto")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            conv(SparseTensor(features(grid, 3), grid))
    assert [r.getMessage() for r in caplog.records] == [
        "sparse convolution on cpu: backend 'torch'"
    ]


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown convolution backend 'cudnn'"):
        SubmanifoldConv3d(1, 1, backend="cudnn")

"""Dense blocks against loops over voxels, on grids whose three sides differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from threed_gen.models.layers.dense_resolution import (
    ChannelNorm,
    Double3d,
    Halve3d,
    ResidualBlock3d,
    pixel_shuffle_3d,
)

SIDES = (2, 3, 5)


def features(channels: int, sides: tuple[int, int, int] = SIDES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *sides, generator=generator, dtype=torch.float64)


def random_weights(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def norm_by_hand(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty_like(x)
    for b, *place in itertools.product(*(range(n) for n in (x.shape[0], *x.shape[2:]))):
        row = x[(b, slice(None), *place)]
        unit = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
        out[(b, slice(None), *place)] = unit * weight + bias
    return out


def conv_by_hand(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """3³, padded with zeros: a sum over the taps of shifted copies."""
    assert conv.bias is not None
    padded = nn.functional.pad(x, (1,) * 6)
    out = conv.bias[None, :, None, None, None].expand(len(x), -1, *x.shape[2:]).clone()
    for i, j, k in itertools.product(range(3), repeat=3):
        a, b, c = (slice(n, n + side) for n, side in zip((i, j, k), x.shape[2:], strict=True))
        out += torch.einsum("oc,bcxyz->boxyz", conv.weight[:, :, i, j, k], padded[:, :, a, b, c])
    return out


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_is_its_definition(factor: int) -> None:
    """Channel slowest, then the offsets along x, y, z."""
    x = np.random.default_rng(0).normal(size=(2, 3 * factor**3, *SIDES))
    wanted = np.full((2, 3, *(factor * side for side in SIDES)), np.nan)
    for channel, i, j, k in itertools.product(range(3), *[range(factor)] * 3):
        source = x[:, ((channel * factor + i) * factor + j) * factor + k]
        for x0, y0, z0 in itertools.product(*(range(side) for side in SIDES)):
            place = factor * x0 + i, factor * y0 + j, factor * z0 + k
            wanted[(slice(None), channel, *place)] = source[:, x0, y0, z0]
    assert not np.isnan(wanted).any()
    found = pixel_shuffle_3d(torch.from_numpy(x), factor)
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_channel_norm() -> None:
    norm, x = random_weights(ChannelNorm(4)), features(4)
    assert isinstance(norm, ChannelNorm)
    torch.testing.assert_close(norm(x), norm_by_hand(x, norm.weight, norm.bias))


def test_channel_norm_of_half_precision_has_wide_statistics() -> None:
    norm = ChannelNorm(4)
    x = (features(4) + 200).to(torch.bfloat16)
    out = norm(x)
    wanted = norm_by_hand(x.double(), torch.ones(4), torch.zeros(4))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("out", [3, 5])
def test_residual_block(out: int) -> None:
    block, x = random_weights(ResidualBlock3d(3, out)), features(3)
    assert isinstance(block, ResidualBlock3d)
    h = conv_by_hand(silu(norm_by_hand(x, block.norm1.weight, block.norm1.bias)), block.conv1)
    h = conv_by_hand(silu(norm_by_hand(h, block.norm2.weight, block.norm2.bias)), block.conv2)
    skip = x
    if out != 3:
        one = block.skip_connection
        assert isinstance(one, nn.Conv3d) and one.bias is not None
        skip = torch.einsum("oc,bcxyz->boxyz", one.weight[:, :, 0, 0, 0], x)
        skip = skip + one.bias[None, :, None, None, None]
    torch.testing.assert_close(block(x), h + skip)


def test_a_fresh_block_says_nothing_of_its_own() -> None:
    block, x = ResidualBlock3d(3).double(), features(3)
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert block.conv2.weight.grad is not None and bool(block.conv2.weight.grad.any())


def test_a_coarse_cell_comes_from_its_children_alone() -> None:
    down = random_weights(Halve3d(2, 3))
    assert isinstance(down, Halve3d) and down.conv.bias is not None
    x = features(2, (4, 2, 6))
    wanted = torch.zeros(2, 3, 2, 1, 3, dtype=torch.float64)
    wanted += down.conv.bias[None, :, None, None, None]
    for i, j, k in itertools.product(range(2), repeat=3):
        children = x[:, :, i::2, j::2, k::2]
        wanted += torch.einsum("oc,bcxyz->boxyz", down.conv.weight[:, :, i, j, k], children)
    torch.testing.assert_close(down(x), wanted)


def test_doubling() -> None:
    up, x = random_weights(Double3d(2, 3)), features(2)
    assert isinstance(up, Double3d)
    wide, found = conv_by_hand(x, up.conv), up(x)
    assert found.shape == (2, 3, 4, 6, 10)
    for channel, i, j, k in itertools.product(range(3), range(2), range(2), range(2)):
        child = found[:, channel, i::2, j::2, k::2]
        torch.testing.assert_close(child, wide[:, 8 * channel + 4 * i + 2 * j + k])

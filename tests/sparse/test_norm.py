"""Group norm and means per sample against torch, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.sparse.grids import features, grid_of, random_grid
from threed_gen.sparse.norm import TILE, SampleGroupNorm, sample_mean, segment_plan, segment_sum
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

# Sizes around the tile of 256 rows: inside one tile, across one border, exact tiles, many tiles.
GRIDS = {
    "one sample": random_grid(16, [1000]),
    "tiny samples": random_grid(16, [3, 0, 1, 7]),
    "around a tile": random_grid(16, [TILE - 1, 2, TILE, TILE + 1]),
    "many tiles": random_grid(16, [3 * TILE + 5, 0, 4 * TILE, 2 * TILE - 3]),
    "across one border": random_grid(16, [200, 100, 100]),
}


def by_hand(x: torch.Tensor, grid: VoxelGrid, norm: SampleGroupNorm) -> torch.Tensor:
    parts = []
    for part in torch.split(x, grid.seqlens):
        image = part.t()[None]  # [1, C, n]
        if len(part):  # not F.group_norm: that refuses a single voxel
            image = torch.group_norm(image, norm.groups, norm.weight, norm.bias, norm.eps)
        parts.append(image[0].t())
    return torch.cat(parts)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("name", GRIDS)
def test_equals_torch_per_sample_with_gradients(name: str, groups: int) -> None:
    grid = GRIDS[name]
    norm = SampleGroupNorm(groups, 6).double()
    torch.manual_seed(0)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = (3.0 + 2.0 * features(grid, 6)).requires_grad_()
    leaves = (x, norm.weight, norm.bias)
    out = norm(SparseTensor(x, grid)).feats
    expected = by_hand(x, grid, norm)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    upstream = features(grid, 6, seed=4)
    got = torch.autograd.grad(out, leaves, upstream)
    want = torch.autograd.grad(expected, leaves, upstream)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_segment_sums(name: str) -> None:
    grid = GRIDS[name]
    x = features(grid, 5)
    expected = torch.stack([part.sum(0) for part in torch.split(x, grid.seqlens)])
    torch.testing.assert_close(segment_sum(x, segment_plan(grid)), expected)


def test_gradcheck() -> None:
    grid = random_grid(5, [9, 0, 14])
    norm = SampleGroupNorm(2, 4).double()
    x = features(grid, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: norm(SparseTensor(t, grid)).feats, x)
    assert torch.autograd.gradcheck(lambda t: sample_mean(t, grid), x)


def test_sample_mean_of_an_empty_sample_is_zero() -> None:
    grid = random_grid(8, [10, 0, 3])
    x = features(grid, 2)
    mean = sample_mean(x, grid)
    torch.testing.assert_close(mean[0], x[:10].mean(0))
    assert mean[1].tolist() == [0.0, 0.0]


def test_statistics_are_float32_for_bf16_features() -> None:
    grid = random_grid(16, [2000])
    x = (100.0 + features(grid, 4)).bfloat16()
    out = SampleGroupNorm(4, 4)(SparseTensor(x, grid)).feats
    assert out.dtype == torch.bfloat16
    expected = F.group_norm(x.float().t()[None], 4)[0].t()
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("samples", [1, 3])
def test_empty_grid(samples: int) -> None:
    grid = grid_of([], 8, samples)
    norm = SampleGroupNorm(2, 4)
    x = torch.zeros(0, 4, requires_grad=True)
    out = norm(SparseTensor(x, grid)).feats
    out.sum().backward()
    assert out.shape == (0, 4)
    assert norm.weight.grad is not None and norm.weight.grad.isfinite().all()


def test_groups_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        SampleGroupNorm(4, 6)

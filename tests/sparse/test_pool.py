"""Mean pooling and subdivision against closed forms."""

from __future__ import annotations

import pytest
import torch

from tests.sparse.grids import features, full_grid, grid_of, random_grid, to_dense
from threed_gen.sparse.gather import gather_sum
from threed_gen.sparse.pool import mean_pool, subdivide
from threed_gen.sparse.sparse_tensor import SparseTensor


def test_pool_of_a_full_grid_is_avg_pool3d() -> None:
    grid = full_grid(8, 2)
    x = features(grid, 3)
    pooled = mean_pool(SparseTensor(x, grid))
    expected = torch.nn.functional.avg_pool3d(to_dense(x, grid), 2)
    torch.testing.assert_close(to_dense(pooled.feats, pooled.grid), expected)


def test_pool_is_the_mean_over_existing_children() -> None:
    grid = grid_of([[0, 0, 0, 0], [0, 1, 1, 1], [0, 2, 0, 0], [1, 0, 0, 1]], 4, 2)
    x = torch.tensor([[1.0], [4.0], [7.0], [9.0]], dtype=torch.float64)
    pooled = mean_pool(SparseTensor(x, grid))
    assert pooled.grid.coords.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert pooled.feats[:, 0].tolist() == [2.5, 7.0, 9.0]


def test_pooling_a_subdivision_gives_the_features_back() -> None:
    grid = random_grid(9, [100, 0, 3])
    x = features(grid, 4)
    children = subdivide(SparseTensor(x, grid))
    assert torch.equal(children.feats, x[children.grid.pooled().parent])  # the same cells, sorted
    back = mean_pool(children)
    assert torch.equal(back.grid.coords, grid.coords)
    torch.testing.assert_close(back.feats, x, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("layer", [mean_pool, subdivide])
def test_gradients(layer) -> None:
    grid = random_grid(5, [20, 0, 7])
    x = features(grid, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(SparseTensor(t, grid)).feats, x)


@pytest.mark.parametrize("layer", [mean_pool, subdivide])
def test_empty_grid(layer) -> None:
    grid = grid_of([], 8, 2)
    out = layer(SparseTensor(torch.zeros(0, 3), grid))
    assert out.feats.shape == (0, 3)
    assert out.grid.seqlens == [0, 0]


def test_bf16_features_are_pooled_in_float32() -> None:
    grid = full_grid(2)
    x = torch.tensor([[256.0], *[[1.0]] * 7])  # 256 + 1 = 256 in bf16
    pooled = mean_pool(SparseTensor(x.bfloat16(), grid))
    assert pooled.feats.dtype == torch.bfloat16
    assert pooled.feats.item() == torch.tensor(263 / 8).bfloat16().item()


def test_gather_sum_reads_nothing_at_the_padding_index() -> None:
    x = torch.tensor([[1.0], [2.0]])
    index = torch.tensor([[0, 2], [0, 1], [2, 2]])
    back = torch.tensor([[0, 1], [1, 3]])
    x.requires_grad_()
    out = gather_sum(x, index, back, padded=True)
    assert out[:, 0].tolist() == [1.0, 3.0, 0.0]
    out.backward(torch.tensor([[1.0], [10.0], [100.0]]))
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [11.0, 10.0]

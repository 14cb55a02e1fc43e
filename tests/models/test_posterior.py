"""The Gaussian posterior against torch.distributions and hand-computed numbers."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from tests.sparse.grids import features, random_grid
from threed_gen.models.posterior import Posterior
from threed_gen.sparse.sparse_tensor import SparseTensor

GRID = random_grid(8, [4, 0, 6])


def posterior() -> Posterior:
    return Posterior.from_moments(SparseTensor(features(GRID, 6), GRID))


def test_kl_is_that_of_torch() -> None:
    p = posterior()
    expected = kl_divergence(Normal(p.mean.feats, p.std()), Normal(0.0, 1.0)).mean(1)
    torch.testing.assert_close(p.kl(), expected)


def test_kl_by_hand() -> None:
    """mean 2, log-variance 0: ½(4 + 1 - 1 - 0) = 2; mean 0, variance 1: 0."""
    grid = random_grid(8, [2])
    moments = torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert Posterior.from_moments(SparseTensor(moments, grid)).kl().tolist() == [2.0, 0.0]


def test_kl_per_sample_is_the_mean_over_its_cells() -> None:
    p = posterior()
    expected = torch.stack([p.kl()[:4].mean(), torch.zeros(()).double(), p.kl()[4:].mean()])
    torch.testing.assert_close(p.kl_per_sample(), expected)


def test_sample_scales_the_noise() -> None:
    p = posterior()
    noise = features(GRID, 3, seed=7)
    drawn = p.sample(noise)
    torch.testing.assert_close((drawn.feats - p.mean.feats) / noise, p.std())
    assert drawn.grid is GRID


def test_log_variance_is_clamped_and_moments_are_float32() -> None:
    moments = torch.tensor([[0.0, 100.0], [0.0, -100.0]]).bfloat16()
    p = Posterior.from_moments(SparseTensor(moments, random_grid(8, [2])))
    assert p.logvar.feats[:, 0].tolist() == [20.0, -30.0]
    assert p.mean.feats.dtype == p.kl().dtype == torch.float32

"""The path: its ends, its derivative, its draws, packed samples of very different sizes."""

from __future__ import annotations

import torch

from tests.flow.fields import draws
from tests.sparse.grids import features, random_grid
from threed_gen.flow.path import (
    data_estimate,
    draw_noise,
    interpolate,
    on_grid,
    per_token,
    velocity_target,
)
from threed_gen.randomness import sample_noise
from threed_gen.sparse.sparse_tensor import SparseTensor

LENGTHS = [3, 0, 700, 1]
T = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, sum(LENGTHS), 5, generator=random, dtype=torch.float64)
    return x0, noise


def test_ends_are_data_and_noise() -> None:
    x0, noise = pair()
    assert torch.equal(interpolate(x0, noise, torch.zeros(4), LENGTHS), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(4), LENGTHS), noise)


def test_each_sample_is_at_its_own_time() -> None:
    x0, noise = pair()
    x_t = interpolate(x0, noise, T, LENGTHS)
    parts = [part.split(LENGTHS) for part in (x_t, x0, noise)]
    for got, data, eps, t in zip(*parts, T.tolist(), strict=True):
        torch.testing.assert_close(got, (1 - t) * data + t * eps)


def test_target_is_the_derivative_of_the_path() -> None:
    x0, noise = pair()
    h, inner = 1e-4, T * 0.9
    ahead, behind = (interpolate(x0, noise, inner + s, LENGTHS) for s in (h, -h))
    torch.testing.assert_close((ahead - behind) / (2 * h), velocity_target(x0, noise))


def test_data_estimate_inverts_the_path() -> None:
    x0, noise = pair()
    x_t = interpolate(x0, noise, T, LENGTHS)
    torch.testing.assert_close(data_estimate(x_t, velocity_target(x0, noise), T, LENGTHS), x0)


def test_path_is_fp32_under_bf16() -> None:
    x0, noise = (part.bfloat16() for part in pair())
    with torch.autocast("cpu", torch.bfloat16):
        x_t = interpolate(x0, noise, T.float(), LENGTHS)
        target = velocity_target(x0, noise)
    assert x_t.dtype == target.dtype == torch.float32
    expected = interpolate(x0.double(), noise.double(), T, LENGTHS)
    torch.testing.assert_close(x_t.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(target.double(), noise.double() - x0.double(), rtol=1e-6, atol=1e-6)


def test_per_token() -> None:
    rows = per_token(torch.tensor([7.0, 8.0, 9.0]), [2, 0, 1])
    assert rows.tolist() == [[7.0], [7.0], [9.0]]
    assert per_token(torch.zeros(0), []).shape == (0, 1)


def test_noise_is_the_same_on_any_number_of_ranks() -> None:
    """Index and length decide; not the micro-batch, its order, or the rank."""
    indices, lengths = [4, 7, 8, 11], LENGTHS
    whole = draw_noise(draws(), indices, lengths, 16)
    halves = [draw_noise(draws(), indices[s], lengths[s], 16) for s in (slice(2), slice(2, 4))]
    assert torch.equal(whole, torch.cat(halves))
    turned = draw_noise(draws(), indices[::-1], lengths[::-1], 16).split(lengths[::-1])
    assert torch.equal(whole, torch.cat(turned[::-1]))


def test_noise_changes_with_seed_step_and_sample() -> None:
    noises = [
        draw_noise(draw, [index], [4], 3)
        for draw, index in [(draws(), 0), (draws(), 1), (draws(step=3), 0), (draws(seed=2), 0)]
    ]
    for i, noise in enumerate(noises):
        assert not any(torch.equal(noise, other) for other in noises[:i])


def test_noise_is_drawn_as_the_trainer_draws() -> None:
    expected = sample_noise(1, 2, "flow_noise", [4, 7], [3, 5], 2)
    assert torch.equal(draw_noise(draws(), [4, 7], [3, 5], 2), expected)
    assert draw_noise(draws(), [], [], 2).shape == (0, 2)


def test_on_grid_hands_the_model_a_sparse_tensor() -> None:
    grid = random_grid(8, [4, 0, 6])
    feats = features(grid, 3)

    def model(x: SparseTensor, t: torch.Tensor, factor: float) -> SparseTensor:
        assert x.grid is grid and t.shape == (3,)
        return x.replace(x.feats * factor)

    assert torch.equal(on_grid(model, grid)(feats, torch.zeros(3), 2.0), feats * 2)

"""Statistics of latents against NumPy on all tokens at once, and what they do to x0."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.data.fields import random_field
from tests.data.latents.sets import CHANNELS, random_latent
from threed_gen.data.latents.latent import Latent
from threed_gen.data.latents.source import denormalise, x0_of
from threed_gen.data.latents.statistics import LatentStatistics, Moments
from threed_gen.errors import UserError
from threed_gen.randomness import generator


@pytest.fixture(scope="module")
def latents() -> list[Latent]:
    """Samples of unlike size, far from zero: where a careless variance loses its digits."""
    rng = np.random.default_rng(5)
    made = [random_latent(rng, random_field(rng, size, 128)) for size in (1, 700, 33, 250)]
    return [Latent(x.bricks, x.mean + np.float32(1000), x.logvar, 128) for x in made]


def of(latents: list[Latent], draw: str = "mode") -> LatentStatistics:
    return LatentStatistics.of(
        (Moments.of(x.mean, x.logvar) for x in latents),
        draw,  # type: ignore[arg-type]
    )


def test_they_are_those_of_all_tokens_together(latents: list[Latent]) -> None:
    tokens = np.concatenate([x.mean for x in latents]).astype(np.float64)
    logvar = np.concatenate([x.logvar for x in latents]).astype(np.float64)  # type: ignore[misc]
    mode, sample = of(latents), of(latents, "sample")
    assert mode.tokens == sample.tokens == 984
    np.testing.assert_allclose(mode.mean, tokens.mean(0), rtol=1e-14)
    np.testing.assert_allclose(mode.std, tokens.std(0), rtol=1e-11)
    np.testing.assert_array_equal(sample.mean, mode.mean)
    both = np.sqrt(tokens.var(0) + np.exp(logvar).mean(0))
    np.testing.assert_allclose(sample.std, both, rtol=1e-11)
    assert (sample.std > mode.std * 1.0001).any()
    assert mode.dead == ()
    assert mode.warning() is None


def test_text_and_json_keep_every_bit(latents: list[Latent]) -> None:
    for posterior in (True, False):
        moments = Moments.of(latents[2].mean, latents[2].logvar if posterior else None)
        back = Moments.from_text(moments.to_text(), 33, CHANNELS)
        assert back.to_text() == moments.to_text()
        assert (back.noise is None) == (not posterior)
    statistics = of(latents, "sample")
    again = LatentStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert again.to_json() == statistics.to_json()
    assert again.std.tobytes() == statistics.std.tobytes()


@pytest.mark.parametrize(
    "text", ["", "AAAA", "no base64!", Moments(1, *np.full((3, 3), np.nan)).to_text(),
             Moments(1, *np.full((3, 3), -1.0)).to_text()],
)  # fmt: skip
def test_moments_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Moments.from_text(text, 1, CHANNELS)


@pytest.mark.parametrize(
    "change", [{"std": [1.0]}, {"std": [0.0, 1, 1]}, {"draw": "both"}, {"mean": [1e999, 0, 0]}]
)
def test_statistics_that_are_none_are_refused(latents: list[Latent], change: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        LatentStatistics.from_json({**of(latents).to_json(), **change})  # type: ignore[dict-item]


def test_a_dead_channel_is_named_and_left_as_it_is(latents: list[Latent]) -> None:
    flat = [
        Latent(x.bricks, np.where([False, True, False], np.float32(4.2), x.mean), x.logvar, 128)
        for x in latents
    ]
    statistics = of(flat)
    assert statistics.dead == (1,)
    assert statistics.std[1] == 1
    assert "1 of 3 latent channels are dead" in (statistics.warning() or "")
    assert "tokens): 1;" in (statistics.warning() or "")
    x0 = x0_of(flat[1], statistics)
    assert float(x0[:, 1].abs().max()) < 1e-6
    assert of(flat, "sample").dead == ()  # a draw moves


def test_none_at_all_and_no_posterior_are_errors(latents: list[Latent]) -> None:
    with pytest.raises(UserError, match="no latents"):
        LatentStatistics.of([], "mode")
    with pytest.raises(UserError, match="--store posterior"):
        LatentStatistics.of([Moments.of(latents[0].mean, None)], "sample")


def test_x0_has_unit_variance_for_either_draw(latents: list[Latent]) -> None:
    for draw in ("mode", "sample"):
        statistics = of(latents, draw)
        x0 = torch.cat(
            [
                x0_of(x, statistics, generator(0, s, "latent", i) if draw == "sample" else None)
                for i, x in enumerate(latents)
                for s in range(20)
            ]
        )
        assert x0.dtype == torch.float32
        # 20 × 984 draws: the mean's standard error is at most 0.008, of the modes it is exact.
        tolerance = 1e-4 if draw == "mode" else 0.02
        assert float(x0.double().mean(0).abs().max()) < tolerance
        assert float((x0.double().std(0) - 1).abs().max()) < tolerance


def test_draws_follow_the_generator_and_the_posterior(latents: list[Latent]) -> None:
    statistics, x = of(latents, "sample"), latents[1]
    first = x0_of(x, statistics, generator(0, 3, "latent", 2))
    assert torch.equal(first, x0_of(x, statistics, generator(0, 3, "latent", 2)))
    assert not torch.equal(first, x0_of(x, statistics, generator(0, 3, "latent", 1)))
    noise = torch.randn(x.mean.shape, generator=generator(0, 3, "latent", 2)).numpy()
    assert x.logvar is not None
    z = x.mean.astype(np.float64) + np.exp(x.logvar.astype(np.float64)) ** 0.5 * noise
    expected = (z - statistics.mean) / statistics.std
    np.testing.assert_allclose(first.numpy(), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="logvar"):
        x0_of(Latent(x.bricks, x.mean, None, 128), statistics, generator(0, 0, "latent"))
    with pytest.raises(ValueError, match="2 channels"):
        x0_of(Latent(x.bricks, x.mean[:, :2], None, 128), statistics)


def test_denormalise_undoes_it(latents: list[Latent]) -> None:
    statistics = of(latents)
    for x in latents:
        back = denormalise(x0_of(x, statistics).double(), statistics)
        np.testing.assert_allclose(back.numpy(), x.mean, rtol=1e-6)
    assert denormalise(torch.zeros(2, CHANNELS), statistics).dtype == torch.float32

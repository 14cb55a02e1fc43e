"""Densities against their distribution functions, the shift, and the released ladders of times."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from tests.flow.fields import draws
from threed_gen.flow.times import TimeDensityConfig, draw_times, sampling_times, shift_time

COUNT = 4000


def drawn(config: TimeDensityConfig) -> list[float]:
    return draw_times(config, draws(), range(COUNT)).tolist()


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_uniform_density(shift: float) -> None:
    """P(t' < x) is the shift undone: x / (s − (s − 1)·x)."""
    times = drawn(TimeDensityConfig(density="uniform", shift=shift))
    assert stats.kstest(times, lambda x: x / (shift - (shift - 1) * x)).pvalue > 0.01


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 1.0), (-0.5, 1.7)])
@pytest.mark.parametrize("shift", [1.0, 6.0])
def test_logit_normal_density(mean: float, std: float, shift: float) -> None:
    """Shifting a logit-normal moves its mean by log s."""
    times = torch.tensor(drawn(TimeDensityConfig(mean=mean, std=std, shift=shift)))
    logits = torch.logit(times.double()).numpy()
    expected = stats.norm(mean + math.log(shift), std)
    assert stats.kstest(logits, expected.cdf).pvalue > 0.01


def test_densities_would_be_told_apart() -> None:
    """The test above has the power to see a mean that is off by 0.1."""
    times = torch.tensor(drawn(TimeDensityConfig(mean=1.0)))
    assert stats.kstest(torch.logit(times).numpy(), stats.norm(1.1, 1.0).cdf).pvalue < 1e-4


def test_default_density_is_that_of_trellis() -> None:
    config = TimeDensityConfig()
    assert (config.density, config.mean, config.std, config.shift) == ("logit_normal", 1, 1, 1)


def test_times_are_the_same_on_any_number_of_ranks() -> None:
    config = TimeDensityConfig()
    whole = draw_times(config, draws(), range(16))
    assert whole.dtype == torch.float32
    halves = [draw_times(config, draws(), range(8)), draw_times(config, draws(), range(8, 16))]
    assert torch.equal(whole, torch.cat(halves))
    assert torch.equal(whole[5:6], draw_times(config, draws(), [5]))
    assert not torch.equal(whole, draw_times(config, draws(step=3), range(16)))
    assert draw_times(config, draws(), []).shape == (0,)


def test_far_tails_stay_in_range() -> None:
    for mean in (-2000.0, 2000.0):
        times = drawn_few(TimeDensityConfig(mean=mean, shift=8.0))
        assert all(0 <= t <= 1 for t in times)


def drawn_few(config: TimeDensityConfig) -> list[float]:
    return draw_times(config, draws(), range(4)).tolist()


def test_shift_by_hand() -> None:
    """SD3, eq. 23: s = 3 carries 1/2 to 3/4; the ends stay, exactly; s and 1/s undo each other."""
    assert shift_time(0.5, 3.0) == 0.75
    for shift in (0.1, 1.0, 3.0, 6.0, 8.0):
        assert (shift_time(0.0, shift), shift_time(1.0, shift)) == (0.0, 1.0)
        assert shift_time(shift_time(0.3, shift), 1 / shift) == pytest.approx(0.3, rel=1e-14)
        assert shift_time(0.3, shift) == pytest.approx(shift * 0.3 / (1 + (shift - 1) * 0.3))


def test_even_times() -> None:
    assert sampling_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert sampling_times(4, shift=3.0) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    assert sampling_times(1, shift=6.0) == [1.0, 0.0]


# sigmas of diffusers 0.33.1, FlowMatchEulerDiscreteScheduler(shift=s).set_timesteps(n), measured:
# entries 0, 1, n//2, -3, -2, -1. Dense stage, 512³, 1024³ (spec, sections 2, 3 and 5).
RELEASED = [
    (6.0, 50, [1.0, 0.9965608, 0.8536006, 0.1392569, 0.0347826, 0.0]),
    (6.0, 30, [1.0, 0.9941192, 0.8500676, 0.2010283, 0.0347826, 0.0]),
    (8.0, 15, [1.0, 0.9905568, 0.8904485, 0.4063086, 0.060207, 0.0]),
    (1.0, 4, [1.0, 0.667, 0.334, 0.334, 0.001, 0.0]),
]


@pytest.mark.parametrize(("shift", "steps", "expected"), RELEASED)
def test_released_times(shift: float, steps: int, expected: list[float]) -> None:
    times = sampling_times(steps, shift, "diffusers")
    chosen = [times[i] for i in (0, 1, steps // 2, -3, -2, -1)]
    assert chosen == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing", ["even", "diffusers"])
@pytest.mark.parametrize("steps", [1, 2, 15, 50])
def test_times_go_down_from_one_to_zero(spacing: str, steps: int) -> None:
    times = sampling_times(steps, 8.0, spacing)  # type: ignore[arg-type]
    assert len(times) == steps + 1 and times[0] == 1.0 and times[-1] == 0.0
    assert all(a > b for a, b in zip(times[:-1], times[1:], strict=True))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        sampling_times(0)
    for wrong in ({"std": 0.0}, {"shift": -1.0}, {"density": "cosine"}, {"sdt": 1.0}):
        with pytest.raises(ValidationError):
            TimeDensityConfig.model_validate(wrong)

"""Samplers on flows with a known end: measured orders of convergence, calls, guidance interval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.flow.fields import Recorder, draws, gaussian_end, gaussian_velocity
from threed_gen.flow.guidance import GuidanceConfig
from threed_gen.flow.path import draw_noise
from threed_gen.flow.sampler import SamplerConfig, sample

UNGUIDED = GuidanceConfig(scale=1.0)


def config(method: str = "euler", steps: int = 10, **changes: object) -> SamplerConfig:
    settings = {"shift": 1.0, "spacing": "even", "guidance": UNGUIDED} | changes
    return SamplerConfig.model_validate({"method": method, "steps": steps, **settings})


def gaussian_error(settings: SamplerConfig) -> float:
    noise = draw_noise(draws(), [0, 1, 2], [40, 0, 3], 3).double()
    end = sample(gaussian_velocity, noise, 3, None, None, settings)
    return float((end - gaussian_end(noise)).abs().max())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_order_of_convergence(method: str, order: int, shift: float) -> None:
    """Twice the steps, 2^order times less error against the exact end of a Gaussian's flow."""
    errors = [gaussian_error(config(method, steps, shift=shift)) for steps in (80, 160, 320)]
    measured = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert measured == pytest.approx([order] * 2, abs=0.15), (errors, measured)


def test_heun_is_nearer_for_the_same_calls() -> None:
    assert gaussian_error(config("heun", 20)) < gaussian_error(config("euler", 40)) / 3


def test_released_times_converge_too() -> None:
    errors = [gaussian_error(config("euler", n, shift=6.0, spacing="diffusers")) for n in (50, 400)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("spacing", ["even", "diffusers"])
@pytest.mark.parametrize("steps", [1, 5])
def test_straight_paths_are_exact(method: str, spacing: str, steps: int) -> None:
    """All data in one point: v = (x − point) / t, straight to the point, in a single step."""
    point = torch.tensor([0.3, -4.0], dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor, condition: None) -> Tensor:
        return (x - point) / t[0]

    noise = draw_noise(draws(), [0], [6], 2).double()
    end = sample(velocity, noise, 1, None, None, config(method, steps, spacing=spacing, shift=6.0))
    torch.testing.assert_close(end, point.expand(6, 2), rtol=1e-12, atol=1e-12)


def test_times_and_calls_of_euler_with_guidance() -> None:
    """Each step asks with the condition, then without it, at the same time."""
    model = Recorder()
    settings = config(steps=2, guidance=GuidanceConfig(scale=7.0))
    end = sample(model, torch.zeros(4, 1), 2, 3.0, 1.0, settings)
    assert model.calls == [(3.0, 1.0), (1.0, 1.0), (3.0, 0.5), (1.0, 0.5)]
    assert end.tolist() == [[-15.0]] * 4  # from t = 1 to 0 along v = 1 + 7·2


def test_heun_asks_at_both_ends_but_never_at_zero() -> None:
    model = Recorder()
    sample(model, torch.zeros(4, 1), 2, 3.0, 1.0, config("heun", steps=2))
    assert model.calls == [(3.0, 1.0), (3.0, 0.5), (3.0, 0.5)]


@pytest.mark.parametrize(("method", "guided"), [("euler", 2), ("heun", 4)])
def test_interval_is_honoured_at_every_evaluation(method: str, guided: int) -> None:
    """Times 1, .75, .5, .25: guided at .5 and .75 alone, whichever end of a step they are."""
    model = Recorder()
    guidance = GuidanceConfig(scale=7.0, from_time=0.4, to_time=0.8)
    sample(model, torch.zeros(1, 1), 1, 3.0, 1.0, config(method, 4, guidance=guidance))
    null_times = [t for condition, t in model.calls if condition == 1.0]
    assert set(null_times) == {0.75, 0.5}
    assert len(null_times) == guided


def test_scales_zero_and_one_halve_the_calls() -> None:
    for scale, only in ((0.0, 1.0), (1.0, 3.0)):
        model = Recorder()
        settings = config(steps=5, guidance=GuidanceConfig(scale=scale))
        end = sample(model, torch.zeros(1, 1), 1, 3.0, 1.0, settings)
        assert [condition for condition, _ in model.calls] == [only] * 5
        assert end.item() == pytest.approx(-only)


def test_released_settings() -> None:
    """The pipeline's for 512³: Euler, 30 steps, shift 6, guidance 7 at all times."""
    model = Recorder()
    sample(model, torch.zeros(1, 1), 1, 3.0, 1.0, SamplerConfig())
    assert len(model.calls) == 60
    assert model.calls[0] == (3.0, 1.0) and model.calls[-1][0] == 1.0
    assert model.calls[-1][1] == pytest.approx(0.0347826, abs=1e-6)


def test_state_is_fp32_and_needs_no_gradient() -> None:
    """1000 steps of a bf16 model: a bf16 state would stop moving long before the end."""
    weight = torch.nn.Parameter(torch.ones(()))

    def model(x: Tensor, t: Tensor, condition: None) -> Tensor:
        return (torch.ones_like(x) * weight).bfloat16()

    with torch.autocast("cpu", torch.bfloat16):
        end = sample(model, torch.full((2, 1), 9.0).bfloat16(), 1, None, None, config(steps=1000))
    assert end.dtype == torch.float32 and not end.requires_grad
    torch.testing.assert_close(end, torch.full((2, 1), 8.0), rtol=1e-4, atol=0)


def test_no_tokens() -> None:
    end = sample(gaussian_velocity, torch.zeros(0, 3), 2, None, None, config(steps=2))
    assert end.shape == (0, 3)

"""Guidance: its formula, the calls it makes and saves, its interval; dropout of the condition."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from tests.flow.fields import Recorder, draws
from threed_gen.flow.guidance import (
    GuidanceConfig,
    Pair,
    draw_dropped,
    drop_condition,
    guided_velocity,
)

CONDITION, NULL = 3.0, 1.0


def asked(scale: float, t: float = 0.5, **interval: float) -> tuple[float, list[float]]:
    """The guided velocity, and the conditions the model was asked with."""
    model, guidance = Recorder(), GuidanceConfig(scale=scale, **interval)
    v = guided_velocity(model, torch.zeros(5, 2), t, 3, CONDITION, NULL, guidance)
    assert v.shape == (5, 2) and all(time == pytest.approx(t) for _, time in model.calls)
    return v[0, 0].item(), [condition for condition, _ in model.calls]


def test_formula_and_order_of_the_calls() -> None:
    """v(∅) + w·(v(c) − v(∅)); the conditional call comes first, as released."""
    assert asked(7.0) == (1.0 + 7.0 * 2.0, [CONDITION, NULL])
    assert asked(0.5) == (2.0, [CONDITION, NULL])


def test_one_is_the_conditional_flow_for_one_call() -> None:
    assert asked(1.0) == (CONDITION, [CONDITION])


def test_zero_is_the_unconditional_flow_for_one_call() -> None:
    assert asked(0.0) == (NULL, [NULL])


@pytest.mark.parametrize(
    ("t", "calls"), [(0.19, 1), (0.2, 2), (0.5, 2), (0.8, 2), (0.81, 1), (1.0, 1)]
)
def test_interval(t: float, calls: int) -> None:
    """Both ends belong to it; outside the flow is the conditional one."""
    v, conditions = asked(7.0, t, from_time=0.2, to_time=0.8)
    assert len(conditions) == calls and v == (15.0 if calls == 2 else CONDITION)


def test_zero_outside_its_interval_is_conditional() -> None:
    assert asked(0.0, 0.9, to_time=0.5) == (CONDITION, [CONDITION])


def test_default_acts_at_all_times() -> None:
    guidance = GuidanceConfig()
    assert [guidance.scale_at(t) for t in (1.0, 0.5, 0.0)] == [7.0] * 3


def test_model_is_told_the_time_of_every_sample() -> None:
    seen = []

    def model(x: torch.Tensor, t: torch.Tensor, condition: float) -> torch.Tensor:
        seen.append(t)
        return x.bfloat16() * condition

    v = guided_velocity(model, torch.ones(4, 2), 0.25, 3, 1.0, 0.5, GuidanceConfig())
    assert v.dtype == torch.float32
    assert [t.tolist() for t in seen] == [[0.25] * 3] * 2 and seen[0].dtype == torch.float32


def test_difference_is_taken_in_fp32() -> None:
    """bf16 would round the result, 1 + 7/128 − …, to 8 bits."""

    def model(x: torch.Tensor, t: torch.Tensor, condition: float) -> torch.Tensor:
        return torch.full_like(x, condition, dtype=torch.bfloat16)

    low, high = 1.0, 1.0078125  # neighbours in bf16
    with torch.autocast("cpu", torch.bfloat16):
        v = guided_velocity(model, torch.zeros(1, 1), 0.5, 1, high, low, GuidanceConfig(scale=7.3))
    assert v.item() == pytest.approx(1 + 7.3 * 0.0078125, rel=1e-6)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValidationError, match="beyond"):
        GuidanceConfig(from_time=0.8, to_time=0.2)
    for wrong in ({"scale": -1.0}, {"to_time": 1.5}):
        with pytest.raises(ValidationError):
            GuidanceConfig.model_validate(wrong)


def test_dropout_frequency() -> None:
    dropped = draw_dropped(0.1, draws(), range(4000))
    assert stats.binomtest(int(dropped.sum()), 4000, 0.1).pvalue > 0.01
    assert not draw_dropped(0.0, draws(), range(100)).any()
    assert draw_dropped(1.0, draws(), range(100)).all()
    with pytest.raises(ValueError, match="probability"):
        draw_dropped(1.1, draws(), [0])


def test_dropout_is_the_same_on_any_number_of_ranks() -> None:
    whole = draw_dropped(0.5, draws(), range(64))
    halves = [draw_dropped(0.5, draws(), range(32)), draw_dropped(0.5, draws(), range(32, 64))]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, draw_dropped(0.5, draws(step=3), range(64)))


def test_dropped_samples_get_zeros() -> None:
    tokens = torch.full((6, 2), torch.nan)
    tokens[2:4] = 5.0
    null = drop_condition(tokens, [2, 2, 0, 2], torch.tensor([True, False, True, True]))
    assert null.tolist() == [[0, 0]] * 2 + [[5, 5]] * 2 + [[0, 0]] * 2


def test_one_pass_asks_once_for_both() -> None:
    """All samples with the condition first; the same velocity as two calls."""
    seen = []

    def both(x: torch.Tensor, t: torch.Tensor, condition: float) -> torch.Tensor:
        seen.append((x.shape, t.tolist(), condition))
        return torch.cat([torch.full((5, 2), CONDITION), torch.full((5, 2), NULL)])

    model, guidance = Recorder(), GuidanceConfig(scale=7.0)
    v = guided_velocity(
        model, torch.zeros(5, 2), 0.5, 3, CONDITION, NULL, guidance, Pair(both, 9.0)
    )
    assert seen == [((10, 2), [0.5] * 6, 9.0)] and not model.calls
    assert v.tolist() == [[15.0, 15.0]] * 5


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_one_pass_is_not_asked_where_one_flow_will_do(scale: float) -> None:
    model = Recorder()
    pair = Pair(lambda x, t, c: pytest.fail("asked for both"), 0.0)
    guidance = GuidanceConfig(scale=scale)
    guided_velocity(model, torch.zeros(1, 1), 0.5, 1, CONDITION, NULL, guidance, pair)
    assert len(model.calls) == 1

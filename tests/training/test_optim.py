"""Warm-up, cosine, floor; and what is decayed."""

from __future__ import annotations

import pytest
from torch import nn

from threed_gen.training.optim import build_optimizer, learning_rate
from threed_gen.training.run_config import TrainConfig

CONFIG = TrainConfig(steps=100, learning_rate=1e-3, warmup_fraction=0.05, final_lr_ratio=0.02)


def test_schedule_closed_form() -> None:
    assert learning_rate(CONFIG, 0) == pytest.approx(1e-3 / 5)
    assert learning_rate(CONFIG, 4) == pytest.approx(1e-3)
    middle = 5 + 95 / 2
    assert learning_rate(CONFIG, 5) == pytest.approx(1e-3)
    assert learning_rate(CONFIG, int(middle)) == pytest.approx(1e-3 * (0.02 + 0.98 / 2), rel=0.02)
    assert learning_rate(CONFIG, 100) == pytest.approx(2e-5)


def test_rates_fall_after_the_warm_up() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(100)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_constant_schedule() -> None:
    constant = CONFIG.model_copy(update={"schedule": "constant"})
    assert {learning_rate(constant, step) for step in range(5, 100)} == {1e-3}


def test_norms_and_biases_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    groups = build_optimizer(model, CONFIG).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]

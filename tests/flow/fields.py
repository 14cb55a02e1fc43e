"""Flows whose velocity and end are known exactly, and a model that notes how it was asked."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from threed_gen.flow.path import Draw
from threed_gen.randomness import generator

MEAN = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
STD = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def draws(seed: int = 1, step: int = 2) -> Draw:
    return partial(generator, seed, step)


def gaussian_velocity(x: Tensor, t: Tensor, condition: object) -> Tensor:
    """E[ε − x0 | x_t = x] for data N(MEAN, STD²) in each channel; one time for all rows."""
    time = t[0]
    variance = ((1 - time) * STD) ** 2 + time**2
    return -MEAN + (time - (1 - time) * STD**2) / variance * (x - (1 - time) * MEAN)


def gaussian_end(noise: Tensor) -> Tensor:
    """Where the exact flow carries noise: x_t = (1 − t)·MEAN + std(x_t)·noise, at t = 0."""
    return MEAN + STD * noise


class Recorder:
    """v = level of the condition, at every x and t; keeps (condition, t) of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def __call__(self, x: Tensor, t: Tensor, condition: float) -> Tensor:
        assert t.ndim == 1 and bool((t == t[0]).all())
        self.calls.append((condition, t[0].item()))
        return torch.full_like(x, condition)

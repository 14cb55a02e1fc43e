"""The numbers of an augmentation: bounds, how often they come, and that a key decides them."""

from __future__ import annotations

import torch

from threed_gen.models.conditioning.augment import Augmentation, draw_augmentation
from threed_gen.randomness import generator

COUNT = 4000


def test_bounds_and_rates() -> None:
    one = torch.Generator().manual_seed(0)
    drawn = [draw_augmentation(one) for _ in range(COUNT)]
    margins = [a.margin for a in drawn]
    assert set(margins) == set(range(33))
    assert abs(sum(margins) / COUNT - 16) < 0.8
    angles = [a.angle for a in drawn if a.angle]
    shares = [a.share for a in drawn if a.share != 1]
    for chosen in (angles, shares):
        assert abs(len(chosen) / COUNT - 0.1) < 0.02  # 4 sigma
    assert -10 <= min(angles) < -9
    assert 9 < max(angles) <= 10
    assert 0.9 <= min(shares) < 0.91
    assert 0.99 < max(shares) < 1
    assert 20 < sum(a.angle != 0 and a.share != 1 for a in drawn) < 64  # independent: 40
    for axis in (0, 1):
        places = [a.corner[axis] for a in drawn]
        assert 0 <= min(places) < 0.01
        assert 0.99 < max(places) < 1


def test_the_generator_decides() -> None:
    first = [draw_augmentation(generator(1, step, "view")) for step in range(5)]
    assert first == [draw_augmentation(generator(1, step, "view")) for step in range(5)]
    assert len({a.margin for a in first} | {a.corner for a in first}) > 5


def test_as_many_numbers_whatever_comes_out() -> None:
    one = torch.Generator().manual_seed(3)
    for _ in range(50):
        draw_augmentation(one)
    other = torch.Generator().manual_seed(3)
    torch.rand(7 * 50, generator=other, dtype=torch.float64)
    assert torch.rand((), generator=one) == torch.rand((), generator=other)


def test_plain_is_that_of_testing() -> None:
    assert Augmentation() == Augmentation(margin=16, angle=0.0, share=1.0)

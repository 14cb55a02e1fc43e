"""The band of expected curves: windows, width, departures; on numbers worked out by hand."""

from __future__ import annotations

import pytest

from threed_gen.evaluation.expected import (
    WINDOWS,
    departures,
    make_band,
    validation_points,
    window_means,
)


def records(values: list[float]) -> list[dict[str, object]]:
    return [{"loss": v, "terms": {"in": v / 2}} for v in values]


def test_windows_are_means_and_an_unfinished_one_is_left_out() -> None:
    curves = window_means(records([1.0, 3.0, 5.0, 7.0, 9.0]), steps=2 * WINDOWS)
    assert curves == {"total": [2.0, 6.0], "in": [1.0, 3.0]}


def test_band_is_the_wider_of_three_sigma_and_ten_percent() -> None:
    quiet = [{"total": [10.0, 1.0]} for _ in range(5)]
    band = make_band(quiet, 40)
    assert (band.low["total"], band.high["total"]) == ([9.0, 0.9], [11.0, 1.1])
    noisy = [{"total": [v]} for v in (8.0, 9.0, 10.0, 11.0, 12.0)]
    sigma = 2.5**0.5  # squares 4 + 1 + 0 + 1 + 4, over n − 1 = 4
    band = make_band(noisy, 40)
    assert band.low["total"][0] == pytest.approx(10 - 3 * sigma)
    assert band.high["total"][0] == pytest.approx(10 + 3 * sigma)


def test_a_window_is_never_narrower_than_its_curve() -> None:
    """Only window 3 of 5 spreads, with variance 0.025; the others have a fifth of that."""
    runs = [{"in": [1.0, 1.0, 1.0, v, 2.0]} for v in (0.8, 0.9, 1.0, 1.1, 1.2)]
    band = make_band(runs, 100)
    half = [high - mean for high, mean in zip(band.high["in"], band.mean["in"], strict=True)]
    common, own = 3 * (0.025 / 5) ** 0.5, 3 * 0.025**0.5
    assert half == pytest.approx([common, common, common, own, 2 * common])


def test_departures_name_curve_and_steps() -> None:
    band = make_band([{"total": [10.0, 10.0]} for _ in range(5)], 40)
    assert departures({"total": [10.9, 9.1]}, band) == []
    lines = departures({"total": [10.0, 11.1]}, band)
    assert len(lines) == 1
    assert "total: steps 21–40: 11.1" in lines[0]


def test_curves_may_have_points_of_their_own_number() -> None:
    """Ten validations beside twenty windows, and neither is compared beyond what there is."""
    curve = {"total": [1.0] * 20, "validation: loss": [1.0] * 10}
    band = make_band([curve] * 5, 1000)
    assert departures({"total": [1.0] * 3, "validation: loss": [1.0]}, band) == []
    (line,) = departures({"validation: loss": [1.0, 2.0]}, band)
    assert "validation: loss: steps 101–200: 2.0" in line


def test_points_of_validations() -> None:
    records = [{"step": 5, "mean": {"loss": 2.0, "relative_l2": 0.5, "iou": 1.0}},
               {"step": 9, "mean": {"loss": 1.0, "relative_l2": 0.25}}]  # fmt: skip
    assert validation_points(records) == {
        "validation: loss": [2.0, 1.0], "validation: relative L2": [0.5, 0.25],
    }  # fmt: skip
    assert validation_points([{"step": 5, "mean": {"iou": 1.0}}]) == {}

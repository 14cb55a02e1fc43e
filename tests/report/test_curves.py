"""Charts: windows, scales, ticks, gaps."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from threed_gen.report.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    chart_data,
    chart_svg,
    has_data,
    last_value,
    short,
)


def points(svg: str) -> list[tuple[float, float]]:
    path = re.search(r'class="line c0" d="M([^"]+)"', svg)
    assert path is not None
    pairs = [pair.split() for pair in path[1].split("L")]
    return [(float(x), float(y)) for x, y in pairs]


def test_linear_chart_puts_values_where_they_belong() -> None:
    svg = chart_svg(Chart("t", [Line("a", [0, 50, 100], [0.0, 10.0, 5.0])]))
    ET.fromstring(svg)
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert (x0, x2) == (LEFT, WIDTH - RIGHT)
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y0 == HEIGHT - BOTTOM
    assert TOP < y1 < y2 < y0  # SVG counts downwards
    assert (y0 - y2) / (y0 - y1) == pytest.approx(0.5, abs=2e-3)


def test_log_chart_makes_equal_factors_equal_steps() -> None:
    svg = chart_svg(Chart("t", [Line("a", [1, 2, 3], [100.0, 1.0, 0.01])], log=True))
    ys = [y for _, y in points(svg)]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)
    ticks = re.findall(r'class="tick" [^>]*>([^<]+)<', svg)
    assert ticks == ["0.01", "0.1", "1", "10", "100"]


def test_log_is_given_up_where_values_are_not_positive() -> None:
    assert chart_data(Chart("t", [Line("a", [1, 2], [0.0, 1.0])], log=True))["log"] is False


def test_long_runs_are_cut_into_windows_that_lose_nothing_of_the_mean() -> None:
    values = [float(k % 7) for k in range(10_000)]
    chart = Chart("t", [Line("a", range(10_000), values)], smooth=True)
    line = chart_data(chart)["lines"][0]
    assert len(line["x"]) == POINTS
    assert sum(line["y"]) / POINTS == pytest.approx(3.0, abs=0.01)
    assert line["x"][0] < 25
    assert line["x"][-1] > 9_975


def test_smoothing_neither_lags_nor_bends_a_straight_line() -> None:
    values = [float(k) for k in range(100)]
    line = chart_data(Chart("t", [Line("a", range(100), values)], smooth=True))["lines"][0]
    assert line["y"] == pytest.approx(values)


def test_gaps_and_nothing() -> None:
    chart = Chart("t", [Line("a", [1, 2, 3, 4], [None, math.nan, math.inf, 2.0])])
    assert chart_data(chart)["lines"][0]["y"] == [2.0]
    assert last_value(chart) == 2.0
    ET.fromstring(chart_svg(chart))
    empty = Chart("t", [Line("a", [1], [None])])
    assert not has_data(empty)
    assert last_value(empty) is None
    ET.fromstring(chart_svg(empty))


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [-3.0, -3.0], [1e-30, 1e30], [5.0], [-1e-9, 1e9], [1e300, 1e300]]
)
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_still_give_a_drawing(values: list[float], log: bool) -> None:
    svg = chart_svg(Chart("t", [Line("a", range(len(values)), values)], log=log))
    ET.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg
    assert svg.count("<text") < 40


def test_titles_are_escaped() -> None:
    assert "<script" not in chart_svg(Chart('"><script>', [Line("a", [1], [1.0])]))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1500, "1.5k"), (2_000_000, "2M"), (0.05, "0.05"), (5e-5, "5e-5"), (-12, "-12")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text

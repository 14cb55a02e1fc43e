"""Line charts as plain SVG text, drawn here so that the page needs no plotting library.

A chart is complete without JavaScript; page.js only adds the read-out under the pointer, from the
numbers that `chart_data` hands it. Long runs are cut into at most `POINTS` windows of equal step
count: the band behind a line is the span of each window, the line its (smoothed) mean.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 460, 236
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 26
POINTS = 240
SMOOTHING = 5  # windows to either side that the line averages


@dataclass(frozen=True)
class Line:
    """One named series; None and non-finite values are gaps."""

    label: str
    steps: Sequence[int]
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """What one chart shows."""

    title: str
    lines: Sequence[Line]
    log: bool = False
    smooth: bool = False  # a band of the raw values and a smoothed line over it
    dots: bool = False  # few, exact points (validations)


@dataclass(frozen=True)
class _Curve:
    label: str
    x: list[float]
    low: list[float]
    high: list[float]
    mean: list[float]
    smooth: list[float]


def has_data(chart: Chart) -> bool:
    """Whether anything would be drawn."""
    return any(_finite(value) for line in chart.lines for value in line.values)


def last_value(chart: Chart) -> float | None:
    """The newest value of the first line, smoothed where the chart is."""
    curves = _curves(chart)
    return (curves[0].smooth if chart.smooth else curves[0].mean)[-1] if curves else None


def chart_data(chart: Chart) -> dict[str, Any]:
    """The numbers behind the picture for the read-out: x window and y per line."""
    curves = _curves(chart)
    x0, x1, y0, y1, log = _ranges(chart, curves)
    return {
        "frame": [LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, WIDTH, HEIGHT],
        "x": [x0, x1],
        "y": [y0, y1],
        "log": log,
        "lines": [
            {
                "label": curve.label,
                "x": [round(x) for x in curve.x],
                "y": [_round(v) for v in (curve.smooth if chart.smooth else curve.mean)],
            }
            for curve in curves
        ],
    }


def chart_svg(chart: Chart) -> str:
    """The chart as one `<svg>` element; colours come from the page's style sheet."""
    curves = _curves(chart)
    x0, x1, y0, y1, log = _ranges(chart, curves)

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        if log:
            share = (math.log10(max(y, y0)) - math.log10(y0)) / (math.log10(y1) - math.log10(y0))
        else:
            share = (y - y0) / (y1 - y0)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    def path(xs: Sequence[float], ys: Sequence[float]) -> str:
        return "M" + "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in zip(xs, ys, strict=True))

    label = html.escape(chart.title)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for tick in log_ticks(y0, y1) if log else ticks(y0, y1, 4):
        y = py(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}">{short(tick)}</text>')
    parts += [
        f'<text class="tick mid" x="{px(tick):.1f}" y="{HEIGHT - 6}">{short(tick)}</text>'
        for tick in ticks(x0, x1, 5)
        if tick == round(tick)
    ]
    for number, curve in enumerate(curves):
        if chart.smooth:
            band = path(curve.x, curve.high) + "L" + path(curve.x[::-1], curve.low[::-1])[1:] + "Z"
            parts.append(f'<path class="band c{number % 4}" d="{band}"/>')
        ys = curve.smooth if chart.smooth else curve.mean
        parts.append(f'<path class="line c{number % 4}" d="{path(curve.x, ys)}"/>')
        if chart.dots or len(ys) == 1:
            parts += [
                f'<circle class="dot c{number % 4}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>'
                for x, y in zip(curve.x, ys, strict=True)
            ]
    return "".join(parts) + "</svg>"


def short(value: float) -> str:
    """A number as people write it on an axis: 12k, 0.03, 5e-5."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e9 or size < 1e-3:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if exponent:
            return f"{mantissa}e{int(exponent)}"
        power = math.floor(math.log10(size))
        return f"{value / 10**power:.3g}e{power}"
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}"


def _curves(chart: Chart) -> list[_Curve]:
    return [curve for line in chart.lines if (curve := _windows(line)) is not None]


def _windows(line: Line) -> _Curve | None:
    """Means and spans over at most POINTS windows, and a centred mean over the windows."""
    pairs = [
        (step, float(value))
        for step, value in zip(line.steps, line.values, strict=True)
        if value is not None and _finite(value)
    ]
    if not pairs:
        return None
    count = min(POINTS, len(pairs))
    curve = _Curve(line.label, [], [], [], [], [])
    for window in range(count):
        part = pairs[window * len(pairs) // count : (window + 1) * len(pairs) // count]
        values = [value for _, value in part]
        mean = math.fsum(values) / len(values)
        curve.x.append(sum(step for step, _ in part) / len(part))
        curve.low.append(min(values))
        curve.high.append(max(values))
        curve.mean.append(mean)
    for window in range(count):
        # At both ends the mean is taken over as many windows on either side as there are.
        reach = min(SMOOTHING, window, count - 1 - window)
        near = curve.mean[window - reach : window + reach + 1]
        curve.smooth.append(math.fsum(near) / len(near))
    return curve


def _ranges(chart: Chart, curves: list[_Curve]) -> tuple[float, float, float, float, bool]:
    """x and y spans, and whether the y axis is logarithmic (only with positive values)."""
    if not curves:
        return 0.0, 1.0, 0.0, 1.0, False
    x0, x1 = min(c.x[0] for c in curves), max(c.x[-1] for c in curves)
    lows = [v for c in curves for v in (c.low if chart.smooth else c.mean)]
    highs = [v for c in curves for v in (c.high if chart.smooth else c.mean)]
    low, high = min(lows), max(highs)
    log = chart.log and low > 0
    if x1 == x0:
        x0, x1 = x0 - 1, x1 + 1
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (0.0 if 0 <= low < 0.5 * high else low - pad), high + pad
    return x0, x1, low, high, log


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, or 1-2-5, or round numbers, by how many decades there are; at most about six."""
    decades = math.log10(high / low)
    if decades < 0.7:
        return ticks(low, high, 4)
    mantissas = (1, 2, 5) if decades < 2.2 else (1,)
    stride = max(1, math.ceil(decades / 6))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, stride)
    marks = [m * 10.0**power for power in powers for m in mantissas]
    return [mark for mark in marks if low <= mark <= high]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _round(value: float) -> float:
    return float(f"{value:.5g}")

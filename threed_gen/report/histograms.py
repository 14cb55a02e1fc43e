"""Histograms as plain SVG text, in the look of the line charts (curves.py).

Bars are complete without JavaScript; page.js only adds the read-out under the pointer. Long-tailed
quantities (tokens, seconds) have bins of equal ratio, shares have bins of equal width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from threed_gen.report.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    log_ticks,
    short,
    ticks,
)
from threed_gen.report.text import json_script

MOST_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """What one picture shows."""

    title: str
    values: Sequence[float]  # finite
    log: bool = True  # bins of equal ratio; needs values above 0
    span: tuple[float, float] | None = None  # None: from the smallest value to the largest
    percent: bool = False  # values are shares
    of: tuple[str, str] = ("sample", "samples")  # what is counted: one, many
    note: str = ""  # under the title


@dataclass(frozen=True)
class Bin:
    """Values from `low` to `high`, the latter in the last bin only."""

    low: float
    high: float
    count: int


def histogram_card(chart: Histogram) -> str:
    """The histogram with its title and median; empty without values."""
    if not chart.values:
        return ""
    bins = bins_of(chart)
    median = sorted(chart.values)[len(chart.values) // 2]
    note = f"<p>{escape(chart.note)}</p>" if chart.note else ""
    picture, places = _svg(chart, bins)
    words = [
        [*place, _span(chart, part), f"{part.count:,} {chart.of[part.count != 1]}"]
        for place, part in zip(places, bins, strict=True)
    ]
    frame = [LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, WIDTH, HEIGHT]
    return (
        f'<div class="card chart-card"><header><h3>{escape(chart.title)}</h3>'
        f"<span>median {_label(chart, median)}</span></header>{note}{picture}"
        f"{json_script({'frame': frame, 'bars': words})}</div>"
    )


def bins_of(chart: Histogram) -> list[Bin]:
    """The bins, about as many as the number of values deserves."""
    low, high = chart.span or (min(chart.values), max(chart.values))
    if low == high:
        return [Bin(low, high, len(chart.values))]
    count = min(MOST_BINS, max(6, 2 * math.isqrt(len(chart.values))))
    log = chart.log and low > 0
    edges = [
        low * (high / low) ** (k / count) if log else low + (high - low) * k / count
        for k in range(count + 1)
    ]
    edges[-1] = high
    counts = [0] * count
    for value in chart.values:
        share = (
            math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        )
        counts[min(max(int(share * count), 0), count - 1)] += 1
    return [Bin(edges[k], edges[k + 1], counts[k]) for k in range(count)]


def _svg(chart: Histogram, bins: Sequence[Bin]) -> tuple[str, list[tuple[float, float]]]:
    """The picture, and where each bar stands in it (left and right end)."""
    low, high = bins[0].low, bins[-1].high
    log = chart.log and low > 0 and high > low
    most = max(part.count for part in bins)
    top = most * 1.06
    inner = WIDTH - LEFT - RIGHT

    def px(value: float) -> float:
        if high == low:
            return 0.5 * inner
        if log:
            return inner * math.log(value / low) / math.log(high / low)
        return inner * (value - low) / (high - low)

    def py(count: float) -> float:
        return HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM)

    label = escape(chart.title)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for tick in ticks(0, top, 4):
        if tick == round(tick):
            y = py(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}">{short(tick)}</text>')
    marks = [low] if high == low else log_ticks(low, high) if log else ticks(low, high, 5)
    parts += [
        f'<text class="tick mid" x="{LEFT + px(tick):.1f}" y="{HEIGHT - 6}">'
        f"{_label(chart, tick)}</text>"
        for tick in marks
    ]
    places = []
    for part in bins:
        left, right = px(part.low), px(part.high)
        if high == low:
            left, right = left - inner / 40, right + inner / 40
        places.append((round(left, 1), round(right, 1)))
        if part.count:
            # A bar of one among thousands still has to be seen.
            height = max(HEIGHT - BOTTOM - py(part.count), 2.0)
            parts.append(
                f'<rect class="bar" x="{LEFT + left + 0.75:.1f}" '
                f'y="{HEIGHT - BOTTOM - height:.1f}" width="{max(right - left - 1.5, 1):.1f}" '
                f'height="{height:.1f}" rx="{min(2.5, height / 2):.1f}"/>'
            )
    return "".join(parts) + "</svg>", places


def _span(chart: Histogram, part: Bin) -> str:
    low, high = _label(chart, part.low), _label(chart, part.high)
    return low if low == high else f"{low} – {high}"


def _label(chart: Histogram, value: float) -> str:
    if chart.percent:
        return f"{100 * value:.3g} %"
    return short(float(f"{value:.3g}"))

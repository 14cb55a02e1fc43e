"""Histograms: every value in its bin, whatever the values are."""

from __future__ import annotations

import json
import re

import pytest

from threed_gen.report.histograms import MOST_BINS, Histogram, bins_of, histogram_card


def test_bins_of_equal_width() -> None:
    bins = bins_of(Histogram("share", [0.0, 0.1, 0.5, 0.95, 1.0], log=False, span=(0.0, 1.0)))
    assert len(bins) == 6
    assert [b.count for b in bins] == [2, 0, 0, 1, 0, 2]
    assert bins[3].low == pytest.approx(0.5)


def test_bins_of_equal_ratio() -> None:
    bins = bins_of(Histogram("tokens", [1, 10, 100, 1000, 1e6]))
    assert (bins[0].low, bins[-1].high) == (1, 1e6)
    assert [b.high / b.low for b in bins] == pytest.approx([10.0] * 6)
    assert [b.count for b in bins] == [1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("values", [[3.0], [5.0] * 1000, [0.0, 0.0], [1e-9, 1e12], [7, 7.0000001]])
def test_odd_values_are_all_counted_and_drawn(values: list[float]) -> None:
    bins = bins_of(Histogram("x", values))
    assert sum(b.count for b in bins) == len(values)
    card = histogram_card(Histogram("x", values))
    assert card.count('class="bar"') == sum(b.count > 0 for b in bins)
    assert not re.search(r"nan|inf", card)


def test_many_values_have_a_bounded_number_of_bins() -> None:
    assert len(bins_of(Histogram("x", [float(k) for k in range(1, 50_000)]))) == MOST_BINS


def test_nothing_to_show() -> None:
    assert histogram_card(Histogram("x", [])) == ""


def test_one_among_thousands_is_seen() -> None:
    card = histogram_card(Histogram("x", [1.0] * 9999 + [100.0]))
    heights = [float(h) for h in re.findall(r'class="bar".*? height="([\d.]+)"', card)]
    assert min(heights) == 2.0


def test_read_out_names_span_and_count() -> None:
    card = histogram_card(
        Histogram(
            "x <y>", [0.1, 0.9], log=False, span=(0.0, 1.0), percent=True, of=("mesh", "meshes")
        )
    )
    found = re.search(r'<script type="application/json">(.*?)</script>', card)
    assert found is not None
    bars = json.loads(found[1])["bars"]
    assert bars[0][2:] == ["0 % – 16.7 %", "1 mesh"]
    assert bars[0][1] == bars[1][0]
    assert "x &lt;y&gt;" in card
    assert "<y>" not in card

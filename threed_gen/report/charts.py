"""Which curves the page shows: loss and its terms, validation, latents, speed, memory."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from threed_gen.report.curves import Chart, Line, chart_data, chart_svg, has_data, last_value, short
from threed_gen.report.run_data import Record, RunData
from threed_gen.report.text import json_script

TERM_NAMES = {
    "in": "in · voxels of the band",
    "ext": "ext · voxels beyond the band",
    "sharp": "sharp · voxels near sharp edges",
    "kl": "kl · to the unit Gaussian",
    "velocity": "velocity · squared error; 2 says nothing",
}
WATCHED = ("latent", "flow")  # groups of numbers that a task watches
TIME_RANGES = ((0.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0))
TIME_WINDOWS = 60  # over which the loss by time is averaged: a step has few samples

VALIDATION = (
    ("loss", "validation: loss at fixed noise and times"),
    ("relative_l2", "validation: relative L2 of samples"),
    ("iou", "validation: IoU"),
    ("f@0.02", "validation: F@0.02"),
    ("error_voxels", "validation: error (voxels)"),
)
PLAIN = (  # key of a step's record, title
    ("latent_std", "latent std"),
    ("kl", "kl"),
    ("lr", "learning rate"),
    ("grad_norm", "gradient norm before clipping"),
    ("tokens_per_second", "tokens per second"),
    ("seconds", "seconds per step"),
    ("memory_gib", "peak memory (GiB)"),
)


def charts_section(run: RunData) -> str:
    """All curves of training and validation; a band is the span of raw values."""
    charts = [chart for chart in _charts(run) if has_data(chart)]
    if not charts:
        return '<div class="empty">No step has been recorded yet.</div>'
    return f'<div class="charts">{"".join(_chart_card(chart) for chart in charts)}</div>'


def series(records: Sequence[Record], key: str, label: str, group: str | None = None) -> Line:
    """The values of `key` (inside `group`, if given) over the steps; gaps where it is missing."""
    sources = [record.get(group) or {} if group else record for record in records]
    values = [s.get(key) if isinstance(s, dict) else None for s in sources]
    clean = [v if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
    return Line(label, [record["step"] for record in records], clean)


def _charts(run: RunData) -> list[Chart]:
    records, validation = run.metrics, run.validation
    charts = [Chart("loss", [series(records, "loss", "loss")], log=True, smooth=True)]
    charts += [
        Chart(TERM_NAMES.get(key, key), [series(records, key, key, "terms")], log=True, smooth=True)
        for key in _keys(records, "terms")
    ]
    charts += [
        Chart(title, [series(validation, key, g, g) for g in ("mean", "worst")], dots=True)
        for key, title in VALIDATION
    ]
    charts += [
        Chart(key.replace("_", " "), [series(records, key, key, group)], smooth=True)
        for group in WATCHED
        for key in _keys(records, group)
    ]
    charts.append(Chart("loss by time", loss_by_time(records), log=True))
    charts += [
        Chart(
            title,
            [series(records, key, title)],
            log=key in ("grad_norm", "kl"),
            smooth=key not in ("lr", "memory_gib"),
        )
        for key, title in PLAIN
    ]
    return charts


def loss_by_time(records: Sequence[Record]) -> list[Line]:
    """One line per range of t, each point the mean over the samples of a window of steps."""
    width = max(1, -(-len(records) // TIME_WINDOWS))
    windows = [records[k : k + width] for k in range(0, len(records), width)]
    steps = [window[-1]["step"] for window in windows]
    return [
        Line(f"t {low}–{high}", steps, [_mean_within(window, low, high) for window in windows])
        for low, high in TIME_RANGES
    ]


def _mean_within(records: Sequence[Record], low: float, high: float) -> float | None:
    """Mean loss of the samples whose time lies in [low, high); None where there is none.

    A record's `time_bins` is {"0.30-0.40": [mean, samples]}; whatever else it holds is passed over.
    """
    total = count = 0.0
    for record in records:
        bins = record.get("time_bins")
        for name, pair in bins.items() if isinstance(bins, dict) else ():
            try:
                start, (mean, samples) = float(str(name).split("-")[0]), pair
                inside = low - 1e-9 <= start < high - 1e-9
                total, count = total + inside * mean * samples, count + inside * samples
            except (TypeError, ValueError):
                continue
    return total / count if count else None


def _keys(records: Sequence[Record], group: str) -> list[str]:
    maps = [record[group] for record in records if isinstance(record.get(group), dict)]
    return list(dict.fromkeys(str(key) for each in maps for key in each))


def _chart_card(chart: Chart) -> str:
    data = chart_data(chart)
    value, keys = last_value(chart), ""
    if len(data["lines"]) > 1:
        keys = "".join(
            f'<span class="key c{k}">{escape(line["label"])} {short(line["y"][-1])}</span>'
            for k, line in enumerate(data["lines"])
        )
        keys, value = f"<p>{keys}</p>", None
    right = f"<span>{short(float(f'{value:.3g}'))}</span>" if value is not None else ""
    return (
        f'<div class="card chart-card"><header><h3>{escape(chart.title)}</h3>{right}</header>'
        f"{keys}{chart_svg(chart)}{json_script(data)}</div>"
    )

"""Does a run follow the curves that it should follow?

The most repeated question about any trainer is whether one's own loss is normal. For the tiny
config the answer is committed: the curves of five seeds, cut into equal windows, give a band
(mean ± max(3σ, 10 % of the mean)) for the total loss and for each unweighted term.

A deviation of five numbers is itself uncertain by a third: taken alone, one window in twenty would
be too narrow by chance. So σ / mean of a window is never less than its root mean square over all
windows of its curve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.errors import UserError

WINDOWS = 20
Curves = dict[str, list[float]]  # by name ("total", "in", …): one mean per window


@dataclass(frozen=True)
class Band:
    """Where the window means of a run may lie."""

    steps: int  # of the whole run
    low: Curves
    high: Curves
    mean: Curves

    @property
    def window(self) -> int:
        """Steps per window."""
        return self.steps // WINDOWS


def window_means(records: Sequence[Mapping[str, Any]], steps: int) -> Curves:
    """Means over the complete ones of `WINDOWS` equal windows of a run of `steps` steps.

    Args:
        records: lines of metrics.jsonl, in order, from step 1 on; may stop early.
    """
    width = steps // WINDOWS
    complete = min(WINDOWS, len(records) // width)
    curves: Curves = {}
    for name in ("total", *records[0]["terms"]):
        values = [r["loss"] if name == "total" else r["terms"][name] for r in records]
        curves[name] = [
            math.fsum(values[k * width : (k + 1) * width]) / width for k in range(complete)
        ]
    return curves


def validation_points(records: Sequence[Mapping[str, Any]]) -> Curves:
    """Means over the validated shapes at each validation of an SS-DiT; empty for an SS-VAE's.

    Args:
        records: lines of validation.jsonl, in order.
    """
    known = [record["mean"] for record in records if "relative_l2" in record["mean"]]
    names = {"validation: loss": "loss", "validation: relative L2": "relative_l2"}
    return {title: [mean[key] for mean in known] for title, key in names.items() if known}


def run_curves(run: Path, steps: int) -> Curves:
    """What a run of `steps` steps has done so far; empty before its first step."""
    metrics = records(run / "metrics.jsonl")
    if not metrics:
        return {}
    return window_means(metrics, steps) | validation_points(records(run / "validation.jsonl"))


def records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; its last one may be torn."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def make_band(runs: Sequence[Curves], steps: int) -> Band:
    """The band of several seeds: mean ± max(3σ, 10 % of the mean), σ over the seeds (n − 1)."""
    low: Curves = {}
    high: Curves = {}
    mean: Curves = {}
    for name in runs[0]:
        columns = list(zip(*(run[name] for run in runs), strict=True))
        means = [math.fsum(column) / len(column) for column in columns]
        spreads = _spreads([_relative_variance(c, m) for c, m in zip(columns, means, strict=True)])
        widths = [abs(m) * max(3 * s, 0.1) for s, m in zip(spreads, means, strict=True)]
        mean[name] = means
        low[name] = [m - w for m, w in zip(means, widths, strict=True)]
        high[name] = [m + w for m, w in zip(means, widths, strict=True)]
    return Band(steps, low, high, mean)


def _relative_variance(values: Sequence[float], mean: float) -> float:
    """(σ / mean)² over the seeds."""
    if mean == 0:
        return 0.0
    return math.fsum((v / mean - 1) ** 2 for v in values) / (len(values) - 1)


def _spreads(variances: Sequence[float]) -> list[float]:
    """σ / mean of every window: its own, or that of the whole curve, whichever is larger."""
    common = math.fsum(variances) / len(variances)
    return [math.sqrt(max(own, common)) for own in variances]


def departures(curves: Curves, band: Band) -> list[str]:
    """One line for each window mean outside the band; none: the run is as it should be."""
    lines = []
    for name, values in curves.items():
        width = band.steps // len(band.mean[name])
        for k, value in enumerate(values):
            low, high = band.low[name][k], band.high[name][k]
            if not low <= value <= high:
                first, last = k * width + 1, (k + 1) * width
                lines.append(
                    f"{name}: steps {first}–{last}: {value:.5f} is outside {low:.5f} … {high:.5f}"
                )
    return lines


def load_band(path: Path) -> Band:
    """Read a committed band."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Band(tree["steps"], tree["low"], tree["high"], tree["mean"])
    except (OSError, ValueError, KeyError) as err:
        raise UserError(f"{path}: cannot be read as expected curves ({err})") from err

"""What an evaluation says: a row per shape as CSV, a summary as JSON, a table for the console."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from threed_gen.console import table
from threed_gen.evaluation.evaluate import summarize
from threed_gen.evaluation.pairs import Align, Matched, Metrics
from threed_gen.evaluation.protocol import Sampling
from threed_gen.files import write_atomically, write_json

FORMAT = 1
MOST_ROWS = 40  # of the console's table
AWAY = 0.1  # overlap of the boxes below which two shapes do not seem to share a frame
POINT_TO_POINT = "point-to-point, for comparison with papers only"
FACTS = ("name", "truth", "problem")  # of a row, beside its numbers
NUMBERS = ("cd_l1", "cd_l2", "f@0.02", "f@0.01", "f@0.005", "f@0.001", "nc", "nc_abs", "hd95")
HEADINGS = ("CD-L1", "CD-L2", "F@0.02", "F@0.01", "F@0.005", "F@0.001", "NC", "|NC|", "HD95")


def summary_of(
    what: str, against: str, rows: Sequence[Metrics], matched: Matched, align: Align,
    sampling: Sampling,
) -> Metrics:  # fmt: skip
    """The content of summary.json: how it was measured, what was left out, mean and worst."""
    measured = [row for row in rows if "problem" not in row]
    mean, worst = summarize([{k: v for k, v in row.items() if k not in FACTS} for row in measured])
    return {
        "format": FORMAT,
        "evaluated": what,
        "against": against,
        "align": align,
        "sampling": asdict(sampling),
        "measured": len(measured),
        "problems": {row["name"]: row["problem"] for row in rows if "problem" in row},
        "without_truth": matched.without_truth,
        "without_prediction": matched.without_prediction,
        "away": [row["name"] for row in measured if row["box_overlap"] < AWAY],
        "mean": mean,
        "worst": worst,
    }


def write_verdict(out: Path, rows: Sequence[Metrics], summary: Metrics) -> None:
    """OUT/shapes.csv and OUT/summary.json."""
    flat = [flattened(row) for row in rows]
    columns = list(dict.fromkeys([*FACTS, *(key for row in flat for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    content = text.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(out / "shapes.csv", content, "the table of shapes")
    write_json(out / "summary.json", summary)


def flattened(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"all": {"nc": 1.0}} → {"all/nc": 1.0}; None becomes an empty field."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = "" if value is None else value
    return flat


def verdict_table(rows: Sequence[Metrics], summary: Metrics) -> str:
    """A line per shape (the worst of many), the means of each kind, and what was left out."""
    measured = [row for row in rows if "problem" not in row]
    shown = sorted(measured, key=badness, reverse=True)[:MOST_ROWS]
    shown = measured if len(measured) <= MOST_ROWS else shown
    lines = []
    if shown:
        lines += [_shapes_table(shown), ""]
        if len(shown) < len(measured):
            lines += [f"the {len(shown)} worst of {len(measured)} shapes; shapes.csv has all", ""]
        lines += [_means_table(summary["mean"]), ""]
    lines += left_out(summary)
    return "\n".join(lines).rstrip("\n")


def badness(row: Metrics) -> float:
    """By what shapes are ordered: the Chamfer distance of the whole surface."""
    return float(row["all"]["cd_l1"])


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """One line for each kind of thing that has no numbers, or doubtful ones."""
    lines = [f"measured: {summary['measured']}"]
    told = {
        "without_truth": "meshes without a truth of their name",
        "without_prediction": "truths without a mesh of their name",
        "away": "measured, but far from the truth's place or size (see --align)",
    }
    lines += [
        f"{text}: {len(summary[key])} ({', '.join(summary[key])})"
        for key, text in told.items()
        if summary[key]
    ]
    return lines + [f"not measured: {name}: {why}" for name, why in summary["problems"].items()]


def _shapes_table(rows: Sequence[Metrics]) -> str:
    columns = {
        "CD-L1": ("all", "cd_l1"), "F@0.02": ("all", "f@0.02"), "F@0.01": ("all", "f@0.01"),
        "F@0.005": ("all", "f@0.005"), "NC": ("all", "nc"), "HD95": ("all", "hd95"),
        "sharp F@0.01": ("all", "sharp_f@0.01"), "visible CD-L1": ("visible", "cd_l1"),
        "visible F@0.01": ("visible", "f@0.01"),
    }  # fmt: skip
    lines = [
        [row["name"], *(_short(k, row[scope][k]) for scope, k in columns.values()),
         _short("viou", row["viou"])]
        for row in rows
    ]  # fmt: skip
    return table(["shape", *columns, "vIoU"], lines)


def _means_table(mean: Mapping[str, Any]) -> str:
    kinds = {"all surface": mean["all"], "visible from outside": mean["visible"]}
    papers = mean.get("point_to_point")
    if papers:
        kinds |= {f"all surface ({POINT_TO_POINT})": papers}
    rows = [[kind, *(_short(k, numbers[k]) for k in NUMBERS)] for kind, numbers in kinds.items()]
    return table(["mean", *HEADINGS], rows)


def _short(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.5f}" if key.startswith(("cd", "hd")) else f"{value:.4f}"

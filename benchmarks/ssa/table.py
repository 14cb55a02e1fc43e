"""The records as one dated Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ssa.rivals import RIVALS
from benchmarks.ssa.roofline import (
    H200,
    Ceilings,
    Sizes,
    backward_work,
    floor_ms,
    forward_work,
    full_work,
)

Record = Mapping[str, Any]
NONE = "not measured"
COLUMNS = (
    "N", "tokens", "cells", "heads", "blocks", "forward ms", "backward ms", "peak GiB",
    "% of floor f / b", *(f"× {name} f / b" for name in RIVALS), "× official f / b",
    "error o / grad", "tokens per cell / block", "keys per query", "union of 4", "top block",
)  # fmt: skip
# Column of the stage table: what the records call it, and whose floor it has.
STAGES = {
    "compression f": ("compression_forward", "compression", True),
    "score + top-k": ("select_blocks", "score + top-k", True),
    "lists f": ("selection_walk", None, True),
    "selection f": ("selection_forward", "selection", True),
    "window f": ("window_forward", "window", True),
    "gates f": ("combine_forward", "gates", True),
    "compression b": ("compression_backward", "compression", False),
    "lists b": ("selection_readers", None, False),
    "selection dQ": ("walk_backward", None, False),
    "selection dK, dV": ("readers_backward", None, False),
    "selection b": ("selection_backward", "selection", False),
    "window b": ("window_backward", "window", False),
    "gates b": ("combine_backward", "gates", False),
}


def page(records: Mapping[str, Record], smoke: bool = False) -> str:
    """Everything that was measured, and what was not."""
    about = records.get("machine", {})
    lines = [
        f"# Spatial Sparse Attention, {about.get('machine', 'unknown')}, {about.get('date', '')}"
    ]
    if smoke:
        lines += ["", "**A smoke run on a CPU at tiny sizes: the figures below mean nothing.**"]
    limits = ceilings_of(records)
    lines += ["", *_opening(about, limits, records), "", "## Correctness", "", *_checks(records)]
    rows = [one for name, one in records.items() if name.startswith("row: ")]
    good = [one for one in rows if "forward_ms" in one]
    lines += ["", "## Forward and backward", "", *_notes(), ""]
    lines += markdown(COLUMNS, [_row(one, records, limits) for one in good])
    lines += ["", "## Full attention", "", *_rivals(records, good, limits)]
    lines += ["", "## Official kernels", "", *_official(records)]
    lines += ["", "## Stages", "", "Milliseconds of each function by itself (least possible).", ""]
    lines += markdown(("row", *STAGES), [_stages(one, limits) for one in good])
    lines += ["", "## Coordinates", "", *_coordinates(good)]
    broken = [
        f"- {name}: {one['error_text']}" for name, one in records.items() if "error_text" in one
    ]
    if broken:
        lines += ["", "## Broken", "", *broken]
    return "\n".join(lines) + "\n"


def ceilings_of(records: Mapping[str, Record]) -> Ceilings:
    """Measured on the machine itself; else those of an H200."""
    found = records.get("ceilings")
    if found is None or "flops" not in found:
        return H200
    return Ceilings(found["flops"], found["exps"], found["bytes"], "measured in this session")


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; a line that says so where it is empty."""
    if not rows:
        return [f"{NONE[0].upper()}{NONE[1:]}."]
    head = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _opening(about: Record, limits: Ceilings, records: Mapping[str, Record]) -> list[str]:
    versions = ", ".join(
        f"{key} {about.get(key, '?')}" for key in ("torch", "triton", "cuda", "python")
    )
    top = (
        f"{limits.flops / 1e12:.0f} TFLOP/s, {limits.exps / 1e12:.2f} T exp/s, "
        f"{limits.bytes / 1e12:.2f} TB/s"
    )
    labels = sorted({one["label"] for one in records.values() if "label" in one})
    return [
        f"{versions}; commit {about.get('commit', '?')}, kernels {about.get('kernels', '?')}.",
        "Written by `python -m benchmarks.ssa`.",
        f"{about.get('dtype', '?')}, 2 KV heads, top-k {about.get('top_k', '?')}, windows of 8³.",
        f"Ceilings {limits.source}: {top}.",
        f"Compared with: {'; '.join(labels) or 'nothing yet'}.",
    ]


def _notes() -> list[str]:
    return [
        "`f / b` is forward / backward. `% of floor`: the least possible time in that of the",
        "measured. `×`: how many times as long the other takes. Errors are relative L2 against",
        "float64 on the same inputs. `union of 4`: blocks that four neighbouring queries chose",
        "together, in those of one; `top block`: share of queries that chose the most popular one.",
    ]


def _checks(records: Mapping[str, Record]) -> list[str]:
    rows = []
    for name, one in records.items():
        if not name.startswith("check: "):
            continue
        findings = one.get("findings", ())
        finite = [f for f in findings if math.isfinite(f["limit"])]
        worst = max(finite, key=_closeness, default=None)
        bad = "error_text" in one or any(not f["ok"] for f in findings)
        verdict = "FAILED" if bad else "passed" if finite else "left out"
        text = one.get("error_text", "")
        if worst is not None:
            text = f"{worst['what']}: {worst['value']:.2g} (limit {worst['limit']:.2g})"
        elif findings:
            text = findings[0]["what"]
        rows.append([name.removeprefix("check: "), verdict, text])
    return markdown(("check", "", "nearest to its limit"), rows)


def _closeness(finding: Record) -> float:
    if math.isnan(finding["value"]):
        return math.inf
    if not finding["limit"]:
        return math.inf if finding["value"] else -1.0
    return float(finding["value"] / finding["limit"])


def _row(one: Record, records: Mapping[str, Record], limits: Ceilings) -> list[str]:
    sizes = Sizes(**one["sizes"])
    floors = [floor_ms(work(sizes), limits)["total"] for work in (forward_work, backward_work)]
    ratios = [
        _ratio(records.get(f"{name}: {one['size']}, {one['heads']} heads"), one) for name in RIVALS
    ]
    same = f"official: {one['size']}, cells {one['cell']}³, {one['heads']} heads, {one['pattern']}"
    return [
        one["size"], f"{one['tokens']}", f"{one['cell']}³", one["heads"], one["pattern"],
        _ms(one["forward_ms"]), _ms(one["backward_ms"]), _gib(one["peak_gib"]),
        f"{100 * floors[0] / one['forward_ms']:.0f} / {100 * floors[1] / one['backward_ms']:.0f}",
        *ratios, _ratio(records.get(same), one),
        f"{one['error']:.1e} / {one['error_grad']:.1e}",
        f"{one['per_cell']:.1f} / {one['per_block']:.1f}",
        f"{sizes.selection_pairs / max(sizes.tokens, 1):.0f}", f"{one['union']:.2f}",
        f"{one['popular']:.1%}",
    ]  # fmt: skip


def _ratio(other: Record | None, one: Record) -> str:
    if other is None or "forward_ms" not in other:
        return NONE
    pairs = ((other[key], one[key]) for key in ("forward_ms", "backward_ms"))
    return " / ".join(f"{theirs / ours:.1f}" for theirs, ours in pairs)


def _rivals(records: Mapping[str, Record], rows: Sequence[Record], limits: Ceilings) -> list[str]:
    sizes = {(row["size"], row["heads"]): Sizes(**row["sizes"]) for row in rows}
    lines = []
    for one in records.values():
        if "rival" not in one:
            continue
        least = NONE
        if (one["size"], one["heads"]) in sizes:
            floors = full_work(sizes[one["size"], one["heads"]])
            least = " / ".join(_ms(1e3 * work.seconds(limits)) for work in floors)
        times = [one.get("refused", NONE), "", ""]
        if "forward_ms" in one:
            times = [_ms(one["forward_ms"]), _ms(one["backward_ms"]), _gib(one["peak_gib"])]
        lines.append([one["size"], one["heads"], one.get("label", one["rival"]), *times, least])
    headers = ("N", "heads", "who", "forward ms", "backward ms", "peak GiB", "floor f / b ms")
    return markdown(headers, lines)


def _official(records: Mapping[str, Record]) -> list[str]:
    lines = []
    for name, one in records.items():
        if not name.startswith("official: "):
            continue
        times = [one.get("refused", one.get("error_text", NONE)), "", "", ""]
        if "forward_ms" in one:
            times = [
                _ms(one["forward_ms"]), _ms(one["backward_ms"]), _gib(one["peak_gib"]),
                f"{one['difference']:.1e}",
            ]  # fmt: skip
        lines.append([name.removeprefix("official: "), *times])
    headers = ("row", "forward ms", "backward ms", "peak GiB", "difference from ours")
    return markdown(headers, lines)


def _stages(one: Record, limits: Ceilings) -> list[str]:
    sizes, times = Sizes(**one["sizes"]), one["stages"]
    floors = {
        ahead: floor_ms(work(sizes), limits)
        for ahead, work in ((True, forward_work), (False, backward_work))
    }
    cells = []
    for name, stage, ahead in STAGES.values():
        text = _ms(times[name]) if name in times else NONE
        cells.append(f"{text} ({_ms(floors[ahead][stage])})" if stage else text)
    return [f"{one['size']}, {one['cell']}³, {one['heads']}, {one['pattern']}", *cells]


def _coordinates(rows: Sequence[Record]) -> list[str]:
    meshes = {
        row["size"]: [row["size"], row["mesh"], f"{row['resolution']}", f"{row['tokens']}"]
        for row in rows
    }
    return markdown(("N", "mesh", "R", "tokens"), list(meshes.values()))


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _gib(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"

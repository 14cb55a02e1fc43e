"""The records as one dated Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ss_dit.cases import RIVALS, Case
from benchmarks.ssa.table import NONE, markdown

Record = Mapping[str, Any]
COLUMNS = (
    "model", "samples × tokens", "attention", "checkpoint", "compiled", "forward ms",
    "forward + backward ms", "step ms (least-most)", "tokens/s", "MFU", "executed", "peak GiB",
    "waits", "in SSA", "× full",
)  # fmt: skip


def page(records: Mapping[str, Record], toy: bool = False) -> str:
    """Everything that was measured, and what was not."""
    about = records.get("machine", {})
    where = f"{about.get('machine', 'unknown')}, {about.get('date', '')}"
    lines = [f"# A training step of the SS-DiT, {where}"]
    if toy:
        lines += ["", "**A toy run on a CPU at tiny sizes: the figures below mean nothing.**"]
    rows = [one for name, one in records.items() if name.startswith("row: ")]
    lines += ["", *_opening(about, rows), "", "## Correctness", "", *_checks(records)]
    told = [one for one in rows if "error_text" not in one]
    lines += ["", "## Steps", "", *_notes(), ""]
    lines += markdown(COLUMNS, [_row(one, records) for one in told])
    timed = [one for one in told if "step" in one]
    lines += ["", "## Products of a forward pass, TFLOP", "", *_products(timed)]
    lines += ["", "## Milliseconds in the operators of SSA", "", *_operators(timed)]
    lines += ["", "## Where the host waits", "", *_waits(timed)]
    lines += ["", "## Shapes", "", *_shapes(about)]
    broken = [f"- {name}: {one['error_text']}" for name, one in records.items()
              if "error_text" in one]  # fmt: skip
    if broken:
        lines += ["", "## Broken", "", *broken]
    return "\n".join(lines) + "\n"


def _opening(about: Record, rows: Sequence[Record]) -> list[str]:
    versions = [f"{key} {about.get(key, '?')}" for key in ("torch", "triton", "cuda", "python")]
    peaks = {one["peak_flops"] for one in rows if one.get("peak_flops")}
    peak = ", ".join(f"{peak / 1e12:.1f} TFLOP/s" for peak in peaks) or "not known for this card"
    labels = sorted({one["label"] for one in rows if one.get("attention") == "full"
                     and "label" in one})  # fmt: skip
    source = f"commit {about.get('commit', '?')}, kernels {about.get('kernels', '?')}"
    return [
        f"{', '.join(versions)}; {source}.",
        "Written by `python -m benchmarks.ss_dit`.",
        f"{about.get('precision', '?')}, AdamW, 1374 condition tokens a sample, random weights.",
        f"Peak of dense bf16 products (data sheet): {peak}.",
        f"Full attention: {'; '.join(labels) or NONE}.",
    ]


def _notes() -> list[str]:
    return [
        "Medians of CUDA events behind a warm-up. `MFU`: products that the mathematics needs, over",
        "the time and the peak; `executed`: those that the kernels do, recomputation included.",
        "`waits`: times that the host waits for the GPU in a step. `in SSA`: share of the step in",
        "the attention's operators, without projections and compression. `× full`: how many times",
        "as long a step of the same model with full attention takes. Blocks are chosen by random",
        "weights, not by trained ones.",
    ]


def _checks(records: Mapping[str, Record]) -> list[str]:
    rows = []
    for name, one in records.items():
        if name.startswith("check: "):
            findings = one.get("findings", ())
            bad = "error_text" in one or any(not finding["ok"] for finding in findings)
            text = one.get("error_text") or "; ".join(
                f"{f['what']}: {f['value']:.2g}" + (f" (limit {f['limit']:.2g})"
                if math.isfinite(f["limit"]) else "") for f in findings
            )  # fmt: skip
            rows.append([name.removeprefix("check: "), "FAILED" if bad else "passed", text])
    return markdown(("check", "", "found"), rows)


def _row(one: Record, records: Mapping[str, Record]) -> list[str]:
    count = f"{one['samples']} × {one['size']}"
    if "tokens" in one:
        count += f" ({one['tokens']} in all)"
    head = [one["model"], count, one["attention"], *("yes" if one[key] else "no"
            for key in ("checkpoint", "compiled"))]  # fmt: skip
    if "step" not in one:
        return [*head, one.get("refused", NONE), *[""] * (len(COLUMNS) - len(head) - 1)]
    step = one["step"]
    waits, peak = one["waits"], one["peak_gib"]
    return [
        *head, _ms(one["forward"]["median"]), _ms(one["forward_backward"]["median"]),
        f"{_ms(step['median'])} ({_ms(step['low'])}-{_ms(step['high'])})",
        f"{one['tokens_per_second']:,.0f}", _share(one["mfu"]), _share(one["executed_share"]),
        NONE if peak is None else f"{peak:.2f}",
        NONE if waits is None else f"{sum(waits.values())}", _in_attention(one),
        _against_full(one, records),
    ]  # fmt: skip


def _in_attention(one: Record) -> str:
    times = one.get("operators")
    return _share(sum(times.values()) / one["step"]["median"] if times else None)


def _against_full(one: Record, records: Mapping[str, Record]) -> str:
    if one["attention"] == "full":
        return ""
    rival = Case(
        RIVALS[one["model"]], one["size"], one["samples"], "full", one["checkpoint"],
        one["compiled"],
    )  # fmt: skip
    other = records.get(f"row: {rival}", {})
    return f"{other['step']['median'] / one['step']['median']:.2f}" if "step" in other else NONE


def _named(one: Record) -> str:
    keys = ("model", "size", "samples", "attention", "checkpoint", "compiled")
    return str(Case(**{key: one[key] for key in keys}))


def _products(rows: Sequence[Record]) -> list[str]:
    names = list(dict.fromkeys(name for one in rows for name in one["forward_flops"]))
    lines = [
        [_named(one), *(f"{one['forward_flops'][name] / 1e12:.3g}" if name in one["forward_flops"]
         else "" for name in names), f"{one['model_flops'] / 1e12:.4g}",
         f"{one['executed_flops'] / 1e12:.4g}"]
        for one in rows
    ]  # fmt: skip
    return markdown(("row", *names, "step, model", "step, executed"), lines)


def _operators(rows: Sequence[Record]) -> list[str]:
    timed = [one for one in rows if one.get("operators")]
    names = sorted({name for one in timed for name in one["operators"]})
    lines = [[_named(one), *(_ms(one["operators"].get(name, 0.0)) for name in names),
              NONE if one["keys"] is None else f"{one['keys']:.0f}"] for one in timed]  # fmt: skip
    return markdown(("row", *names, "tokens in a query's blocks"), lines)


def _waits(rows: Sequence[Record]) -> list[str]:
    lines = [[_named(one), place, f"{times}"] for one in rows
             for place, times in (one["waits"] or {}).items()]  # fmt: skip
    if rows and not lines and all(one["waits"] is not None for one in rows):
        return ["Nowhere in any of the steps above."]
    return markdown(("row", "line", "times"), lines)


def _shapes(about: Record) -> list[str]:
    lines = [[size, mesh, f"{resolution}", f"{tokens}"]
             for size, shapes in about.get("shapes", {}).items()
             for mesh, resolution, tokens in shapes]  # fmt: skip
    return markdown(("size", "mesh", "R", "tokens"), lines)


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"

"""Scaling on paper and by simulation: step time, balance, checkpoints and restarts on many GPUs.

    python -m benchmarks.scale_sim            # prints the tables
    python -m benchmarks.scale_sim --write    # and writes benchmarks/results/ and docs/scaling.svg

Everything it starts from stands in `scale_sim.yaml`, each with its source, or "assumed". NO GPU
WAS USED: times are simulated from those inputs, and are as good as they are. The balance of ranks
is not assumed: it is the shard plan's own, on token counts of real shapes.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import sys

from benchmarks.scale_parts import (
    communication,
    goodput,
    sent,
    young,
)
from benchmarks.scale_picture import picture
from benchmarks.scale_simulation import (
    HERE,
    STEPS,
    Inputs,
    plan_imbalance,
    safety,
    simulate,
)

GPUS = (8, 64, 512, 4096)
GIB = 2**30
Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def state_bytes(parameters: int, stage: int, ranks: int) -> float:
    """Of one rank, as `threed_gen.training.memory` has it, which loads torch."""
    from threed_gen.training.memory import state_bytes as of_rank

    return of_rank(parameters, stage, ranks)


def tables(inputs: Inputs) -> list[Table]:
    """All results, in the order of the report."""
    mfus = [float(mfu) for mfu in inputs.rows["mfu"]["value"]]
    return [
        _inputs(inputs), _memory(inputs), _traffic(inputs), _balance(inputs),
        _steps(inputs, mfus), _networks(inputs, mfus[1]), _safety(inputs, mfus[1]),
    ]  # fmt: skip


def _inputs(inputs: Inputs) -> Table:
    rows = [
        [name, str(row["value"]), row["unit"], row["kind"], row["source"]]
        for name, row in inputs.rows.items()
    ]
    return "Inputs", ["input", "value", "unit", "kind", "source"], rows


def _memory(inputs: Inputs) -> Table:
    rows = []
    for model in inputs.models.values():
        if model["label"] in [row[0] for row in rows] or model.get("resolution") == 1024:
            continue  # the same weights
        for stage in range(4):
            each = [state_bytes(model["parameters"], stage, gpus) / GIB for gpus in (1, *GPUS)]
            rows.append([model["label"], str(stage), *(f"{size:.2f}" for size in each)])
    header = ["model", "ZeRO", *(f"{gpus:,} GPU" for gpus in (1, *GPUS))]
    return "States of one GPU, GiB (weights, gradients, moments, average in fp32)", header, rows


def _traffic(inputs: Inputs) -> Table:
    rows, element = [], inputs.value("element_bytes")
    for model in inputs.models.values():
        for stage in (2, 3):
            weights, parts = model["parameters"], model["accumulation"]
            told = [model["label"], str(stage)]
            told.append(f"{sent(weights, element, stage, parts, 512) / 1e9:.2f}")
            for gpus in GPUS:
                wire = communication(weights, element, stage, parts, gpus, inputs.links)
                told.append(f"{wire * 1e3:.0f}")
            rows.append(told)
    header = ["model", "ZeRO", "GB sent at 512", *(f"ms at {gpus:,}" for gpus in GPUS)]
    return "Communication of one step and GPU, nothing hidden", header, rows


def _balance(inputs: Inputs) -> Table:
    rows, tokens = [], tuple(inputs.tokens[512])
    per_node = int(inputs.value("gpus_per_node"))
    for gpus in GPUS:
        told = [f"{gpus:,}"]
        for samples, bucket in ((1, True), (2, False), (4, False), (16, False)):
            mean, worst = plan_imbalance(tokens, gpus, samples, per_node, bucket)
            told.append(f"{mean:.3f} ({worst:.3f})")
        rows.append(told)
    header = ["GPUs", "1 sample a GPU, bucketed", "2", "4", "16"]
    title = (
        f"Tokens of the fullest GPU over the mean, by the shard plan (64 streams, 512³): "
        f"mean of {STEPS} steps (worst)"
    )
    return title, header, rows


def _steps(inputs: Inputs, mfus: list[float]) -> Table:
    rows = []
    for model in inputs.models.values():
        for gpus in GPUS:
            low, middle, high = (simulate(inputs, model, gpus, 2, mfu) for mfu in mfus)
            span = f"{high.total * 1e3:,.0f} to {low.total * 1e3:,.0f}"
            rows.append(
                [
                    model["label"], f"{gpus:,}", f"{middle.compute * 1e3:,.0f}",
                    f"{middle.imbalance:.3f}", f"{middle.exposed * 1e3:,.0f}",
                    f"{middle.total * 1e3:,.0f} ({span})",
                    f"{middle.efficiency:.2f} ({low.efficiency:.2f} to {high.efficiency:.2f})",
                ]
            )  # fmt: skip
    header = ["model", "GPUs", "compute ms", "imbalance", "waiting for the network ms",
              "step ms (all MFUs)", "efficiency (all MFUs)"]  # fmt: skip
    return "Simulated steps, ZeRO 2, the same samples on each GPU", header, rows


def _networks(inputs: Inputs, mfu: float) -> Table:
    rows = []
    for label, rate in inputs.networks.items():
        slower = inputs.changed("inter_bytes", float(rate))
        for stage in range(4):
            told = [label, str(stage)]
            for model in inputs.models.values():
                step = simulate(slower, model, 64, stage, mfu)
                told.append(f"{step.total * 1e3:,.0f} ({step.exposed * 1e3:,.0f})")
            rows.append(told)
    header = ["between nodes", "ZeRO", *(model["label"] for model in inputs.models.values())]
    title = f"Simulated step on 8 nodes of 8 GPUs, MFU {mfu}: ms (of it waiting for the network)"
    return title, header, rows


def _safety(inputs: Inputs, mfu: float) -> Table:
    rows = []
    for model in inputs.models.values():
        for gpus in GPUS:
            found = safety(inputs, model, gpus)
            step = simulate(inputs, model, gpus, 2, mfu).total
            rows.append(
                [
                    model["label"], f"{gpus:,}", f"{found.between / 3600:,.1f}",
                    f"{found.write:.1f}", f"{found.restart:.0f}", f"{found.interval / 60:,.0f}",
                    f"{young(found.write, found.between) / 60:,.0f}",
                    f"{found.interval / step:,.0f}", f"{found.goodput:.4f}",
                ]
            )  # fmt: skip
    header = ["model", "GPUs", "hours between stops", "saving s", "restart s", "best interval min",
              "Young's min", "in steps", "share of useful time"]  # fmt: skip
    return "Simulated checkpoints and restarts", header, rows


def markdown(found: list[Table], day: str) -> str:
    """The report."""
    origin = "`python -m benchmarks.scale_sim --write` from `benchmarks/scale_sim.yaml`"
    lines = [f"# Scaling, simulated, {day}", ""]
    lines.append(f"**Simulated, not measured: no GPU was used.** Written by {origin}.")
    for title, header, rows in found:
        lines += ["", f"## {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def as_csv(found: list[Table]) -> str:
    """All tables but the inputs, one below the other."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for title, header, rows in found[1:]:
        writer.writerow([f"simulated: {title}"])
        writer.writerows([header, *rows, []])
    return text.getvalue()


def main() -> int:
    """Print, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    inputs = Inputs()
    found, day = tables(inputs), datetime.date.today().isoformat()
    print(markdown(found, day))
    if write:
        stem = HERE / "results" / f"scale_sim_{day}"
        stem.with_suffix(".md").write_text(markdown(found, day), encoding="utf-8")
        stem.with_suffix(".csv").write_text(as_csv(found), encoding="utf-8")
        mfu = float(inputs.rows["mfu"]["value"][1])
        curves = {
            model["label"]: [
                (gpus, simulate(inputs, model, gpus, 2, mfu).efficiency) for gpus in GPUS
            ]
            for model in inputs.models.values()
        }
        useful = {
            f"saving every {minutes} min": [
                (gpus, _goodput_at(inputs, gpus, minutes * 60)) for gpus in GPUS
            ]
            for minutes in (5, 30, 120)
        }
        (HERE.parent / "docs" / "scaling.svg").write_text(picture(curves, useful), encoding="utf-8")
    return 0


def _goodput_at(inputs: Inputs, gpus: int, interval: float) -> float:
    found = safety(inputs, inputs.models["ss_dit"], gpus)
    return goodput(interval, found.write, found.restart, found.between)


if __name__ == "__main__":
    sys.exit(main())

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
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.scale_models import BACKWARD, forward
from benchmarks.scale_parts import (
    Links,
    best_interval,
    communication,
    goodput,
    mean_time_between_stops,
    sent,
    young,
)
from benchmarks.scale_picture import picture
from launcher.assignment import Placement, assign, imbalance, make_groups
from launcher.shard_plan import ShardPlan

HERE = Path(__file__).resolve().parent
GPUS = (8, 64, 512, 4096)
STREAMS, STEPS, GIB = 64, 6, 2**30
Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


@dataclass(frozen=True)
class Step:
    """One simulated step of a model."""

    gpus: int
    stage: int
    compute: float  # seconds, of a rank with the mean number of tokens
    imbalance: float  # of the fullest rank
    exposed: float  # seconds of communication that computing does not hide
    total: float

    @property
    def efficiency(self) -> float:
        """Share of the step in which the GPUs compute what is needed."""
        return self.compute / self.total


class Inputs:
    """`scale_sim.yaml`: `value(name)`, and the parts of it."""

    def __init__(self, path: Path = HERE / "scale_sim.yaml") -> None:
        self.document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.rows: dict[str, dict[str, Any]] = self.document["inputs"]
        self.models: dict[str, dict[str, Any]] = self.document["models"]
        self.tokens: dict[int, list[int]] = self.document["tokens"]
        self.networks: dict[str, float] = self.document["networks"]
        for name, row in self.rows.items():
            assert row["kind"] in ("measured", "counted", "published", "assumed"), name
            assert row["kind"] == "assumed" or row["source"], f"{name}: say where it is from"

    def value(self, name: str) -> float:
        return float(self.rows[name]["value"])

    def changed(self, name: str, value: float) -> Inputs:
        """The same with another value of one input."""
        other = copy(self)
        other.rows = {**self.rows, name: {**self.rows[name], "value": value}}
        return other

    @property
    def links(self) -> Links:
        share = self.value("link_share")
        return Links(
            intra=self.value("intra_bytes") * share, inter=self.value("inter_bytes") * share,
            intra_latency=self.value("intra_latency"), inter_latency=self.value("inter_latency"),
            per_node=int(self.value("gpus_per_node")), bucket=self.value("bucket_bytes"),
        )  # fmt: skip


@lru_cache
def plan_imbalance(
    tokens: tuple[int, ...], gpus: int, samples: int, per_node: int, bucket: bool = False
) -> tuple[float, float]:
    """(mean, worst) over a few steps of the fullest rank's tokens over the mean's, by the plan.

    The data set is drawn from `tokens`, large enough for those steps, in 1,024 shards.
    """
    count = max(16_384, gpus * samples * STEPS)
    drawn = np.random.Generator(np.random.Philox(7)).choice(tokens, count)
    shards = np.arange(count) * 1024 // count
    plan = ShardPlan(
        drawn, shards, seed=0, streams=STREAMS, batch_samples=gpus * samples, bucket=bucket
    )
    nodes = -(-gpus // per_node)
    groups = make_groups(STREAMS, Placement.even(nodes, min(gpus, per_node)))
    found = []
    for step in range(STEPS):
        batch = plan.batch(step)
        lengths = drawn[batch].tolist()
        found.append(imbalance(lengths, assign(lengths, plan.streams_of(batch), groups)))
    return sum(found) / len(found), max(found)


def simulate(inputs: Inputs, model: Mapping[str, Any], gpus: int, stage: int, mfu: float) -> Step:
    """One step: the fullest rank's computing, what communication is not hidden, and the rest."""
    lengths: Sequence[int] = inputs.tokens.get(model.get("resolution", 0), [1])
    micro, accumulation = model["samples"], model["accumulation"]
    samples = micro * accumulation
    flops = sum(forward(model, t, inputs.document) for t in lengths) / len(lengths)
    rate = inputs.value("peak_flops") * mfu
    compute = samples * flops * (1 + BACKWARD) / rate
    uneven = 1.0
    if len(lengths) > 1 and gpus > 1:
        per_node = int(inputs.value("gpus_per_node"))
        uneven, _ = plan_imbalance(tuple(lengths), gpus, samples, per_node)
    wire = communication(
        model["parameters"], inputs.value("element_bytes"), stage, accumulation, gpus, inputs.links
    )
    hidden = inputs.value("overlap") * compute * BACKWARD / (1 + BACKWARD)
    exposed = max(0.0, wire - hidden)
    total = compute * uneven + exposed + inputs.value("step_overhead")
    return Step(gpus, stage, compute, uneven, exposed, total)


@dataclass(frozen=True)
class Safety:
    """Checkpoints and restarts of a model on so many GPUs; seconds."""

    between: float  # stops
    write: float
    restart: float
    interval: float  # the best one
    goodput: float


def safety(inputs: Inputs, model: Mapping[str, Any], gpus: int) -> Safety:
    """What stops cost at the best interval."""
    value = inputs.value
    between = mean_time_between_stops(
        gpus, value("stops"), value("stops_days"), value("stops_gpus")
    )
    size = model["parameters"] * value("state_bytes")
    nodes = inputs.links.nodes(gpus)
    disk = size / min(nodes * value("node_disk"), value("shared_disk"))
    write = disk + size / gpus / value("hash_bytes") + value("commit")
    restart = value("detect") + value("relaunch") + value("warm_up") + disk
    interval = best_interval(write, restart, between)
    return Safety(between, write, restart, interval, goodput(interval, write, restart, between))


def simulated_goodput(
    interval: float, write: float, restart: float, between: float, segments: int, seed: int
) -> float:
    """As `goodput`, by drawing the stops one by one: what the closed form is held against."""
    generator = np.random.Generator(np.random.Philox(seed))
    spent = 0.0
    for _ in range(segments):
        left = generator.exponential(between)
        while left < interval + write:  # it does not come to the end of the segment
            spent += left
            left = generator.exponential(between)
            while left < restart:  # nor of the restart
                spent += left
                left = generator.exponential(between)
            spent += restart
            left = generator.exponential(between)
        spent += interval + write
    return segments * interval / spent


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

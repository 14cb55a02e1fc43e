"""The simulation behind `benchmarks/scale_sim.py`: a step, its balance, and what stops cost."""

from __future__ import annotations

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
)
from launcher.assignment import Placement, assign, imbalance, make_groups
from launcher.shard_plan import ShardPlan

HERE = Path(__file__).resolve().parent
STREAMS, STEPS = 64, 6


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

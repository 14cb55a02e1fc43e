"""How evenly a plan's batches fall on ranks and nodes: numbers for people, before a run starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launcher.assignment import Groups, Placement, assign, imbalance, make_groups
from launcher.shard_order import Ints, Numbers
from launcher.shard_plan import ShardPlan

MOST_SAMPLES = 400_000  # are dealt for one answer


@dataclass(frozen=True)
class Balance:
    """Tokens of the fullest rank over the mean of all ranks, over the steps of one epoch.

    Attributes:
        mean, worst: over the steps that were looked at; 1: all ranks have the same.
        worst_step: 0-based step of the epoch where it is worst.
        looked_at, steps: how many steps, out of how many of the epoch.
        empty: steps in which some rank has no sample.
        smallest, largest: samples of a step.
    """

    mean: float
    worst: float
    worst_step: int
    looked_at: int
    steps: int
    empty: int
    smallest: int
    largest: int


def measure(
    plan: ShardPlan, placement: Placement, tokens: Numbers | None = None,
    samples: int = MOST_SAMPLES,
) -> Balance:  # fmt: skip
    """The balance of the first epoch on these ranks.

    Args:
        tokens: [n] that count; None: those that the plan was made with.
        samples: of a longer epoch so many steps are looked at as have these many together.
    """
    counts = plan.tokens if tokens is None else tokens
    groups = make_groups(plan.streams.count, placement)
    steps = plan.steps_of_epoch(0)
    most = max(1, samples * steps // len(plan.tokens))
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int)).tolist()
    ratios, sizes, empty = [], [], 0
    for step in chosen:
        batch = plan.batch(step)
        each = counts[batch].tolist()
        dealt = assign(each, plan.streams_of(batch), groups)
        ratios.append(imbalance(each, dealt))
        sizes.append(len(batch))
        empty += not all(dealt)
    worst = int(np.argmax(ratios))
    return Balance(
        float(np.mean(ratios)), ratios[worst], chosen[worst], len(chosen), steps, empty,
        min(sizes), max(sizes),
    )  # fmt: skip


def shards_of_groups(plan: ShardPlan, groups: Groups) -> list[Ints]:
    """The numbers of the shards that each group reads; every node of a group may read all."""
    owner = np.asarray(groups.of_stream)[plan.streams.stream]
    return [plan.streams.shards[owner == group] for group in range(len(groups.ranks))]

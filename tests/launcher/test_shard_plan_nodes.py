"""Nodes own streams: who gets what, how even it is on real shapes, and what each node reads."""

from __future__ import annotations

import json
from math import gcd
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.assignment import Placement, assign, deal, make_groups, streams_of_nodes
from launcher.balance import Balance, measure, shards_of_groups
from launcher.shard_plan import ShardPlan

REAL = json.loads((Path(__file__).parent / "real_tokens.json").read_text("utf-8"))
PER_NODE = 8


def real_plan(
    samples: int, streams: int, batch: int, *, by_tokens: bool = False, bucket: bool = False,
    seed: int = 0,
) -> ShardPlan:  # fmt: skip
    """Real shapes, drawn again and again, in shards of 100."""
    pool = np.array(REAL["procedural"] + REAL["meshes"])
    tokens = np.random.default_rng(seed).choice(pool, samples)
    size = {"batch_tokens": int(batch * tokens.mean())} if by_tokens else {"batch_samples": batch}
    shards = np.arange(samples) // 100
    return ShardPlan(tokens, shards, seed=seed, streams=streams, bucket=bucket, **size)  # type: ignore[arg-type]


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    ranks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    return Placement(tuple(node for node, count in enumerate(ranks) for _ in range(count)))


@settings(max_examples=80, deadline=None)
@given(placements(), st.integers(1, 24), st.data())
def test_every_position_has_one_rank_and_streams_stay_in_their_group(
    placement: Placement, streams: int, data: st.DataObject
) -> None:
    stream_of = data.draw(st.lists(st.integers(0, streams - 1), max_size=60))
    tokens = data.draw(st.lists(st.integers(0, 50), min_size=len(stream_of), max_size=60))
    tokens = tokens[: len(stream_of)]
    groups = make_groups(streams, placement)
    assert sorted(rank for ranks in groups.ranks for rank in ranks) == list(range(placement.ranks))
    assert len(groups.ranks) == gcd(streams, placement.nodes)
    assert set(groups.of_stream) == set(range(len(groups.ranks)))
    dealt = assign(tokens, stream_of, groups)
    assert dealt == assign(tokens, stream_of, groups)
    assert sorted(p for own in dealt for p in own) == list(range(len(tokens)))
    for rank, positions in enumerate(dealt):
        assert positions == sorted(positions)
        assert all(rank in groups.ranks[groups.of_stream[stream_of[p]]] for p in positions)
    if placement.nodes == 1 or len(groups.ranks) == 1:
        assert dealt == deal(tokens, placement.ranks)


def test_groups_are_consecutive_nodes_and_even() -> None:
    groups = make_groups(12, Placement.even(8, 2))  # gcd 4: two nodes, three streams each
    assert groups.ranks == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15))
    assert groups.of_stream == (0, 1, 2, 3) * 3
    assert streams_of_nodes(12, Placement.even(8, 2)) == [3] * 8
    assert streams_of_nodes(64, Placement.even(16, 8)) == [4] * 16
    assert streams_of_nodes(7, Placement.even(3, 1)) == [7] * 3


def test_a_node_with_half_the_ranks_has_half_the_streams() -> None:
    uneven = Placement((0,) * 8 + (1,) * 4)
    assert streams_of_nodes(60, uneven) == [40, 20]
    assert streams_of_nodes(2, Placement((0,) * 9 + (1,))) == [1, 1]  # nobody is left without
    plan = real_plan(6000, 60, 96)
    assert measure(plan, uneven).mean < 1.15


def test_ranks_need_not_be_sorted_by_node() -> None:
    groups = make_groups(2, Placement((0, 1, 0, 1)))  # as with `srun --distribution=cyclic`
    assert groups.ranks == ((0, 2), (1, 3))
    with pytest.raises(ValueError, match="without gaps"):
        Placement((0, 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 2**30), st.data())
def test_steps_are_the_same_and_whole_at_any_world_size(
    streams: int, by_tokens: bool, seed: int, data: st.DataObject
) -> None:
    plan = real_plan(1500, streams, 40, by_tokens=by_tokens, seed=seed)
    step = data.draw(st.integers(0, 60))
    batch = plan.batch(step)
    tokens = plan.tokens[batch].tolist()
    for nodes, per_node in ((1, 1), (1, 8), (2, 4), (3, 3), (4, 2), (12, 5)):
        groups = make_groups(streams, Placement.even(nodes, per_node))
        dealt = assign(tokens, plan.streams_of(batch), groups)
        assert sorted(batch[p] for own in dealt for p in own) == sorted(batch)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**30), st.booleans())
def test_a_node_reads_its_part_of_the_data(nodes: int, each: int, seed: int, bucket: bool) -> None:
    """When N divides C: each shard by one node, and none much more than its part."""
    streams = nodes * each
    rng = np.random.default_rng(seed)
    shards = np.repeat(np.arange(streams * 6), rng.integers(20, 40, streams * 6))
    tokens = rng.choice(np.array(REAL["procedural"]), len(shards))
    plan = ShardPlan(
        tokens, shards, seed=seed, streams=streams, batch_samples=nodes * 16, bucket=bucket
    )
    groups = make_groups(streams, Placement.even(nodes, 4))
    owned = shards_of_groups(plan, groups)
    assert sorted(np.concatenate(owned).tolist()) == sorted(set(shards.tolist()))
    sizes = np.bincount(shards, weights=tokens)  # bytes go with tokens
    assert max(sizes[own].sum() for own in owned) <= 1.2 * sizes.sum() / nodes
    # What is really dealt in an epoch lies in those shards alone.
    read: list[set[int]] = [set() for _ in range(nodes)]
    for step in range(plan.steps_of_epoch(0)):
        batch = plan.batch(step)
        dealt = assign(tokens[batch].tolist(), plan.streams_of(batch), groups)
        for rank, positions in enumerate(dealt):
            read[rank // 4] |= {int(shards[batch[p]]) for p in positions}
    assert [sorted(own) for own in read] == [sorted(own.tolist()) for own in owned]


def balance(each: int, nodes: int, streams: int, **how: bool) -> Balance:
    batch = each * nodes * PER_NODE
    # A budget of tokens leaves a small last batch, which counts as one step of the epoch.
    steps = 120 if how.get("by_tokens") else 40
    plan = real_plan(max(12_800, steps * batch), streams, batch, **how)
    return measure(plan, Placement.even(nodes, PER_NODE))


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize(
    ("each", "nodes", "limit"),
    [(16, 1, 1.05), (16, 8, 1.05), (4, 1, 1.10), (4, 2, 1.20), (4, 4, 1.20), (4, 8, 1.20)],
)
def test_ranks_are_balanced_on_real_shapes(
    each: int, nodes: int, limit: float, by_tokens: bool
) -> None:
    found = balance(each, nodes, 64 if nodes > 1 else 16, by_tokens=by_tokens)
    print(found)
    assert found.mean <= limit
    assert found.worst >= found.mean


@pytest.mark.parametrize(("each", "nodes", "limit"), [(1, 1, 1.20), (2, 1, 1.10), (2, 8, 1.20)])
def test_few_samples_on_a_rank_are_balanced_by_buckets(each: int, nodes: int, limit: float) -> None:
    found = balance(each, nodes, 16, bucket=True)
    without = balance(each, nodes, 16)
    print(found, without)
    assert found.mean <= limit < without.mean
    assert found.empty == 0


def test_buckets_keep_sizes_of_batches_and_do_not_go_up_and_up() -> None:
    plain, plan = real_plan(5000, 4, 32), real_plan(5000, 4, 32, bucket=True)
    assert plan.steps_of_epoch(0) == plain.steps_of_epoch(0)
    means = [plan.tokens[plan.batch(step)].mean() for step in range(plan.steps_of_epoch(0))]
    ups = np.diff(means) > 0
    assert 0.3 < ups.mean() < 0.7
    spread = [np.std(plan.tokens[plan.batch(s)]) for s in range(30)]
    assert np.mean(spread) < 0.3 * np.std(plan.tokens)

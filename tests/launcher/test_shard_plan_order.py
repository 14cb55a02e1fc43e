"""The fast order equals the plain one, and with one stream it is what it has always been."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import shard_order
from launcher.batches import cut_tokens
from launcher.shard_plan import ShardPlan
from tests.launcher import plain_plan


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_it_equals_the_plain_order(data: st.DataObject) -> None:
    shards = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=90))
    if data.draw(st.booleans()):
        shards.sort()
    tokens = data.draw(st.lists(st.integers(0, 50), min_size=len(shards), max_size=len(shards)))
    streams = data.draw(st.integers(1, len(set(shards))))
    seed, number = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, 3))
    block, in_turn = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    arrays = np.array(tokens), np.array(shards)
    weights = np.ones_like(arrays[0]) if in_turn else arrays[0]
    split = shard_order.split_streams(weights, arrays[1], streams)
    named = {int(s): int(t) for s, t in zip(split.shards, split.stream, strict=True)}
    assert named == plain_plan.streams_of_shards(weights.tolist(), shards, streams)
    order = shard_order.epoch_order(
        *arrays, split, seed=seed, epoch=number, block=block, in_turn=in_turn
    )
    assert order.tolist() == plain_plan.epoch(tokens, shards, seed, number, streams, block, in_turn)


@pytest.mark.parametrize("in_turn", [False, True])
def test_pieces_and_many_windows_change_nothing(in_turn: bool) -> None:
    rng = np.random.default_rng(0)
    count = 66_000  # more than one piece, more than one chunk of windows
    tokens, shards = rng.integers(0, 900, count), np.sort(rng.integers(0, 7, count))
    split = shard_order.split_streams(np.ones_like(tokens) if in_turn else tokens, shards, 5)
    fast = shard_order.epoch_order(tokens, shards, split, seed=3, epoch=1, block=5, in_turn=in_turn)
    slow = plain_plan.epoch(tokens.tolist(), shards.tolist(), 3, 1, 5, 5, in_turn)
    assert fast.tolist() == slow


def test_equal_high_bits_of_keys_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 40, (50, 96)).astype(np.uint64)  # every difference is in the low bits
    keys[::2] <<= np.uint64(30)
    found = shard_order._argsort_rows(keys)
    assert np.array_equal(found, np.argsort(keys, axis=1, kind="stable"))


# sha256 of the first three epochs of one stream: expected curves depend on this order.
GOLDEN = {
    "batch_samples": "2a1e06f0b7bf927aeae9c495614f7571c1cde61e904d8fa3757fb8e64bf8be12",
    "batch_tokens": "2bc8684ce54f67aaf33771f672e0cf56ebadc52b8fe4059ba5135f0af7c9d0dd",
}


@pytest.mark.parametrize("mode", sorted(GOLDEN))
def test_the_order_of_one_stream_never_changes(mode: str) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    tokens = (rng.bit_generator.random_raw(3000) % np.uint64(500)).astype(int)
    shards = np.arange(3000) // 700
    size = 37 if mode == "batch_samples" else 9000
    plan = ShardPlan(tokens, shards, seed=11, block=16, **{mode: size})  # type: ignore[arg-type]
    text, step = "", 0
    while plan.locate(step)[0] < 3:
        text += f"{plan.batch(step)}\n"
        step += 1
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN[mode]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 200))
def test_both_ways_to_cut_by_tokens_agree(tokens: list[int], budget: int) -> None:
    cuts = [0]
    while cuts[-1] < len(tokens):
        end = cuts[-1] + 1
        while end < len(tokens) and sum(tokens[cuts[-1] : end + 1]) <= budget:
            end += 1
        cuts.append(end)
    assert cut_tokens(np.array(tokens), budget).tolist() == cuts

"""The order of an epoch said in a few slow lines: what `launcher.shard_order` must equal."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

from launcher.draws import raw_draws

WINDOW_BLOCKS = 8


def streams_of_shards(weights: list[int], shards: list[int], count: int) -> dict[int, int]:
    """The heaviest shard first to the lightest stream; the heaviest stream is number 0."""
    heavy: dict[int, int] = defaultdict(int)
    for weight, shard in zip(weights, shards, strict=True):
        heavy[shard] += weight
    loads = [(0, 0, stream) for stream in range(count)]
    chosen = {}
    for shard in sorted(heavy, key=lambda name: (-heavy[name], name)):
        load, held, stream = heapq.heappop(loads)
        heapq.heappush(loads, (load + heavy[shard], held + 1, stream))
        chosen[shard] = stream
    order = [stream for load, _, stream in sorted(loads, key=lambda x: (-x[0], x[2]))]
    return {shard: order.index(stream) for shard, stream in chosen.items()}


def epoch(
    tokens: list[int], shards: list[int], seed: int, number: int, count: int, block: int,
    in_turn: bool,
) -> list[int]:  # fmt: skip
    """Sample indices in the order of an epoch."""
    weights = [1] * len(tokens) if in_turn else tokens
    stream_of = streams_of_shards(weights, shards, count)
    blocks = []  # (stream, samples), as they lie on disk
    for shard in sorted(set(shards)):
        own = [i for i, s in enumerate(shards) if s == shard]
        blocks += [(stream_of[shard], own[a : a + block]) for a in range(0, len(own), block)]
    keys = raw_draws(len(blocks), seed, "blocks", number).tolist()
    blocks = [blocks[b] for b in sorted(range(len(blocks)), key=lambda b: (blocks[b][0], keys[b]))]
    samples = [(stream, i) for stream, own in blocks for i in own]
    keys = raw_draws(len(samples), seed, "samples", number).tolist()
    streams: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for key, (stream, sample) in zip(keys, samples, strict=True):
        window = len(streams[stream]) // (WINDOW_BLOCKS * block)
        streams[stream].append((window, key, sample))
    steps = -(-len(tokens) // 2**16) * 2**16
    merged = []
    for stream, members in streams.items():
        before = 0
        total = max(sum(tokens[sample] for _, _, sample in members), 1)
        for place, (_, _, sample) in enumerate(sorted(members)):
            given = int(np.float64(before) / np.float64(total) * steps)
            merged.append((place if in_turn else min(given, steps - 1), stream, place, sample))
            before += tokens[sample]
    return [sample for *_, sample in sorted(merged)]

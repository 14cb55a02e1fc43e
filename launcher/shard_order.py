"""The order in which an epoch shows its samples: streams of whole shards, shuffled, then merged.

`split_streams` puts whole shards into C streams of about the same weight. In every epoch the blocks
of consecutive samples of a stream are put into a random order, and samples are then shuffled inside
windows of a few blocks: reads stay nearly sequential, neighbours do not stay together. At last the
streams are merged so that at every moment each has given the same share of itself; all of them end
together, and any set of streams gives a steady part of every batch.

Written for tens of millions of samples: nothing here sorts the whole epoch at once, and no loop
runs over samples. `tests/launcher/plain_plan.py` says the same in a few slow lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.assignment import deal
from launcher.draws import raw_draws

Ints = NDArray[np.int64]
Numbers = NDArray[Any]  # integers of a width that fits them

WINDOW_BLOCKS = 8  # samples are shuffled inside windows of this many consecutive blocks
CHUNK = 2**16  # keys that are sorted at a time: they stay in a core's cache
PIECE = 2**16  # steps of what a stream has given that are sorted at a time: 16 bits


@dataclass(frozen=True)
class Streams:
    """Which shard belongs to which stream.

    Attributes:
        shards: [S] the shards' numbers, ascending.
        stream: [S] the stream of each. Stream 0 is the heaviest, the last one the lightest.
        count: how many streams there are.
    """

    shards: Ints
    stream: Ints
    count: int

    def of(self, shards: Numbers) -> Ints:
        """The stream of samples that lie in these shards."""
        return self.stream[np.searchsorted(self.shards, shards)]


def split_streams(weights: Numbers, shards: Numbers, count: int) -> Streams:
    """Whole shards to `count` streams, the heaviest shard first to the lightest stream.

    Args:
        weights: [n] of each sample: its tokens, or 1.
        shards: [n] the shard of each sample.

    Raises:
        ValueError: there are fewer shards than streams.
    """
    sequence, starts = _by_shard(shards)
    names = shards[starts] if sequence is None else shards[sequence[starts]]
    if count > len(names):
        raise ValueError(
            f"{count} streams need at least as many shards, but the data set has {len(names)}: "
            f"lower data.streams to {len(names)} or prepare smaller shards"
        )
    heavy = np.add.reduceat(weights if sequence is None else weights[sequence], starts)
    dealt = deal(heavy.tolist(), count)
    totals = [int(heavy[members].sum()) for members in dealt]
    stream = np.empty(len(names), dtype=np.int64)
    for number, old in enumerate(sorted(range(count), key=lambda s: (-totals[s], s))):
        stream[dealt[old]] = number
    return Streams(np.array(names, dtype=np.int64), stream, count)


def epoch_order(
    tokens: Numbers, shards: Numbers, streams: Streams, *, seed: int, epoch: int, block: int,
    in_turn: bool,
) -> Numbers:  # fmt: skip
    """[n] sample indices in the order of an epoch.

    Args:
        block: consecutive samples of a shard that stay together until they are shuffled.
        in_turn: each stream gives one sample in turn, however many tokens it has.
    """
    samples, sizes = _shuffled_blocks(shards, streams, seed, epoch, block)
    keys = raw_draws(len(samples), seed, "samples", epoch)
    begin = 0
    for size in sizes:
        _shuffle_windows(samples[begin : begin + size], keys[begin : begin + size], block)
        begin += size
    del keys
    if streams.count == 1:
        return samples
    return _merged(samples, sizes, tokens, in_turn)


def _by_shard(shards: Numbers) -> tuple[Ints | None, Ints]:
    """(samples sorted by shard, where in that list each shard begins); None: they are already."""
    if bool(np.all(shards[1:] >= shards[:-1])):
        sequence, ordered = None, shards
    else:
        sequence = np.argsort(shards, kind="stable")
        ordered = shards[sequence]
    return sequence, np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])


def _shuffled_blocks(
    shards: Numbers, streams: Streams, seed: int, epoch: int, block: int
) -> tuple[Numbers, list[int]]:
    """(samples [n] stream after stream, blocks in random order; samples of each stream)."""
    count = len(shards)
    number = np.int32 if count < 2**31 else np.int64
    sequence, starts = _by_shard(shards)
    lengths = np.diff(starts, append=count)
    pieces = -(-lengths // block)  # blocks of each shard
    shard = np.repeat(np.arange(len(starts)), pieces)
    within = np.arange(len(shard)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = starts[shard] + within * block  # where each block begins
    size = np.minimum(block, lengths[shard] - within * block)
    stream = streams.stream[shard]

    chosen = np.lexsort((raw_draws(len(shard), seed, "blocks", epoch), stream))
    first, size = first[chosen], size[chosen]
    shift = (first - (np.cumsum(size) - size)).astype(number)
    positions = np.repeat(shift, size)
    positions += np.arange(count, dtype=number)
    samples = positions if sequence is None else sequence[positions].astype(number)
    sizes = np.bincount(stream, weights=size[np.argsort(chosen)], minlength=streams.count)
    return samples, sizes.astype(np.int64).tolist()


def _shuffle_windows(samples: Numbers, keys: NDArray[np.uint64], block: int) -> None:
    """Sort `samples` of one stream by `keys` inside each window, in place."""
    window = WINDOW_BLOCKS * block
    whole = len(samples) // window * window
    rows = max(1, CHUNK // window)
    for begin in range(0, whole, rows * window):
        end = min(begin + rows * window, whole)
        part = samples[begin:end].reshape(-1, window)
        order = _argsort_rows(keys[begin:end].reshape(-1, window))
        samples[begin:end] = np.take_along_axis(part, order, axis=1).ravel()
    if whole < len(samples):
        samples[whole:] = samples[whole:][np.argsort(keys[whole:], kind="stable")]


def _argsort_rows(keys: NDArray[np.uint64]) -> Ints:
    """`np.argsort(keys, axis=1, kind="stable")`, several times as fast.

    The place of a key replaces its lowest bits, so that plain values can be sorted; rows in which
    only those bits tell two keys apart are sorted again as a whole.
    """
    width = keys.shape[1]
    low = np.uint64((1 << (width - 1).bit_length()) - 1)
    packed = keys & ~low
    packed |= np.arange(width, dtype=np.uint64)
    packed.sort(axis=1)
    tied = np.flatnonzero(((packed[:, 1:] ^ packed[:, :-1]) <= low).any(axis=1))
    order = (packed & low).astype(np.int64)
    if len(tied):
        order[tied] = np.argsort(keys[tied], axis=1, kind="stable")
    return order


def _merged(samples: Numbers, sizes: list[int], tokens: Numbers, in_turn: bool) -> Numbers:
    """Merge streams by what each has given before a sample; ties go to the lower stream.

    That amount is told in whole steps, about as many as there are samples: their 16 lowest bits are
    sorted by counting, piece by piece.
    """
    steps = -(-len(samples) // PIECE) * PIECE
    given = np.empty(len(samples), dtype=np.int64)
    ends = np.cumsum(sizes).tolist()
    own = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    for part, size in zip(own, sizes, strict=True):
        turns = np.arange(size) * len(sizes)
        given[part] = turns if in_turn else _shares(tokens[samples[part]], steps)
    limits = np.arange(PIECE, int(given.max()) + 1, PIECE)
    cuts = np.array([
        [part.start, *(part.start + np.searchsorted(given[part], limits)), part.stop]
        for part in own
    ])  # fmt: skip
    merged, done = np.empty_like(samples), 0
    for begins, stops in pairwise(cuts.T.tolist()):
        parts = [slice(a, b) for a, b in zip(begins, stops, strict=True)]
        low = np.concatenate([given[part] for part in parts]).astype(np.uint16)
        found = np.concatenate([samples[part] for part in parts])
        merged[done : done + len(found)] = found[np.argsort(low, kind="stable")]
        done += len(found)
    return merged


def _shares(tokens: Numbers, steps: int) -> Ints:
    """The share of a stream's tokens that comes before each of its samples, in 1 / `steps`."""
    until = np.cumsum(tokens, dtype=np.int64)
    share = (until - tokens) / max(int(until[-1]), 1)
    share *= steps
    return np.minimum(share.astype(np.int64), steps - 1)

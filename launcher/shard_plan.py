"""Which samples make up which global batch: a pure function of (tokens, shards, seed, step).

The data set is cut into C streams of whole shards (longest shard first to the shortest stream, so
that streams weigh about the same). In every epoch the blocks of consecutive samples of a stream
are put into a random order, and samples are then shuffled inside windows of a few blocks: reads
stay nearly sequential, neighbours do not stay together. A global batch takes an equal share from
every stream; a stream that has run out leaves its share to the others, so that an epoch shows
every sample exactly once. Nothing here knows how many ranks there are: `deal` splits a finished
batch over ranks, which is why a run can go on with another number of them.

All randomness is Philox, keyed by (seed, purpose, epoch, …); only its raw 64-bit output is used,
which NumPy guarantees to stay the same between versions.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_BLOCKS = 8  # samples are shuffled inside windows of this many consecutive blocks
EPOCHS_KEPT = 2  # epochs whose order stays in memory: the current one and the one prefetched

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Epoch:
    order: Ints  # [n] sample indices in the order of the epoch
    cuts: Ints  # [batches + 1] batch i is order[cuts[i]:cuts[i + 1]]


class ShardPlan:
    """The order of a training run. `tokens[i]` and `shards[i]` describe sample i of the index.

    Exactly one of `batch_samples` (samples per global batch) and `batch_tokens` (budget of tokens
    per global batch; a sample above the budget gets a batch of its own) must be given. Samples
    must be listed as they lie on disk: `block` consecutive samples of a shard are read together.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        shards: Sequence[int],
        *,
        seed: int,
        streams: int = 1,
        block: int = 64,
        batch_samples: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.tokens: Ints = np.asarray(tokens, dtype=np.int64)  # [n]
        self.shards: Ints = np.asarray(shards, dtype=np.int64)  # [n]
        if self.tokens.ndim != 1 or self.tokens.shape != self.shards.shape:
            raise ValueError("tokens and shards must be two lists of the same length")
        if len(self.tokens) == 0:
            raise ValueError("the plan needs at least one sample")
        if int(self.tokens.min()) < 0:
            raise ValueError("token counts must not be negative")
        if (batch_samples is None) == (batch_tokens is None):
            raise ValueError("give exactly one of batch_samples and batch_tokens")
        for name, value in (
            ("batch_samples", batch_samples),
            ("batch_tokens", batch_tokens),
            ("streams", streams),
            ("block", block),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.seed, self.block = seed, block
        self.batch_samples, self.batch_tokens = batch_samples, batch_tokens
        self.stream_of = _assign_streams(self.tokens, self.shards, streams)  # [n]
        self._blocks = _blocks(self.stream_of, self.shards, block)
        self._ends: list[int] = []  # _ends[e] = steps of the epochs 0 … e together
        self._epochs: dict[int, _Epoch] = {}

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within the epoch) of the global step that follows `step` consumed ones."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        if self.batch_samples is not None:  # every epoch has the same number of batches
            return divmod(step, -(-len(self.tokens) // self.batch_samples))
        while not self._ends or self._ends[-1] <= step:
            epoch = len(self._ends)
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._epoch(epoch).cuts) - 1)
        epoch = bisect.bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def batch(self, step: int) -> list[int]:
        """Sample indices of a global batch; the position in this list is the sample's identity."""
        epoch, local = self.locate(step)
        plan = self._epoch(epoch)
        members: list[int] = plan.order[plan.cuts[local] : plan.cuts[local + 1]].tolist()
        return members

    def substitute(self, step: int, position: int, attempt: int) -> int:
        """The sample that stands in for a damaged one, the same on every rank.

        Candidates are the other samples of the same stream (of all streams, if it has no other),
        those that need no more tokens first, from a random start; attempt 0, 1, … walks through
        them without repetition. Raises ValueError when there is none left.
        """
        wanted = self.batch(step)[position]
        others = np.flatnonzero(self.stream_of == self.stream_of[wanted])
        if len(others) == 1:
            others = np.arange(len(self.tokens))
        others = others[others != wanted]
        if not 0 <= attempt < len(others):
            raise ValueError(f"no substitute left for sample {wanted} after {attempt} attempts")
        fits = self.tokens[others] <= self.tokens[wanted]
        small, large = others[fits], others[~fits]
        if len(small):
            start = draw(self.seed, "substitute", step, position, choices=len(small))
            small = np.roll(small, -start)
        large = large[np.argsort(self.tokens[large], kind="stable")]
        return int(np.concatenate([small, large])[attempt])

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) >= EPOCHS_KEPT:
                self._epochs.pop(next(iter(self._epochs)))
            order = self._order(epoch)
            self._epochs[epoch] = _Epoch(order, self._cut(order))
        return self._epochs[epoch]

    def _order(self, epoch: int) -> Ints:
        sequence, block_of, block_stream = self._blocks
        # 1. permute the blocks of each stream
        block_keys = _raw(len(block_stream), self.seed, "blocks", epoch)
        by_stream = np.lexsort((block_keys, block_stream))
        block_rank = np.empty(len(by_stream), dtype=np.int64)
        block_rank[by_stream] = np.arange(len(by_stream))
        samples = sequence[np.argsort(block_rank[block_of], kind="stable")]
        # 2. shuffle inside windows of each stream; `samples` is grouped by stream from here on
        stream = self.stream_of[samples]
        first = np.searchsorted(stream, stream)  # where the sample's stream begins
        window = (np.arange(len(samples)) - first) // (WINDOW_BLOCKS * self.block)
        sample_keys = _raw(len(samples), self.seed, "samples", epoch)
        samples = samples[np.lexsort((sample_keys, window, stream))]
        # 3. merge the streams so that each has given the same amount at every moment
        weight = np.ones_like(samples) if self.batch_tokens is None else self.tokens[samples]
        before = np.cumsum(weight) - weight
        return samples[np.lexsort((stream, before - before[first]))]

    def _cut(self, order: Ints) -> Ints:
        count = len(order)
        if self.batch_samples is not None:
            batches = -(-count // self.batch_samples)
            return np.arange(batches + 1, dtype=np.int64) * count // batches
        assert self.batch_tokens is not None
        total = np.concatenate([[0], np.cumsum(self.tokens[order])])  # [n + 1]
        reach = np.searchsorted(total, total[:-1] + self.batch_tokens, side="right") - 1
        following = np.maximum(reach, np.arange(1, count + 1)).tolist()  # end of a batch from i
        cuts = [0]
        while cuts[-1] < count:
            cuts.append(following[cuts[-1]])
        return np.asarray(cuts, dtype=np.int64)


def deal(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Split one global batch over ranks, longest sample first to the least loaded rank.

    `tokens[p]` belongs to position p of the batch; returns the positions of each rank, ascending.
    A rank is left empty only when there are fewer samples than ranks.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    result: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, 0, rank) for rank in range(ranks)]  # (tokens, samples, rank): a heap
    for position in sorted(range(len(tokens)), key=lambda p: (-tokens[p], p)):
        load, count, rank = loads[0]
        heapq.heapreplace(loads, (load + int(tokens[position]), count + 1, rank))
        result[rank].append(position)
    return [sorted(positions) for positions in result]


def draw(seed: int, *key: int | str, choices: int) -> int:
    """A uniform draw from range(choices) that depends on (seed, key) alone, the same on all ranks.

    For example the resolution of a step: `draw(seed, "resolution", step, choices=len(levels))`.
    """
    if choices < 1:
        raise ValueError(f"choices must be at least 1, got {choices}")
    generator = _philox(seed, *key)
    limit = 2**64 - 2**64 % choices  # values above would favour the first choices
    while True:
        value = int(generator.random_raw())
        if value < limit:
            return value % choices


def _philox(seed: int, *key: int | str) -> np.random.Philox:
    parts = [f"{type(part).__name__}:{part}" for part in (int(seed), *key)]
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))


def _raw(count: int, seed: int, *key: int | str) -> NDArray[np.uint64]:
    values: NDArray[np.uint64] = _philox(seed, *key).random_raw(count)
    return values


def _assign_streams(tokens: Ints, shards: Ints, streams: int) -> Ints:
    """The stream of every sample: whole shards, the heaviest first to the lightest stream."""
    names, shard_of = np.unique(shards, return_inverse=True)
    if streams > len(names):
        raise ValueError(
            f"{streams} streams need at least as many shards, but the data set has {len(names)}: "
            f"lower data.streams to {len(names)} or prepare smaller shards"
        )
    weights = np.zeros(len(names), dtype=np.int64)
    np.add.at(weights, shard_of, tokens)
    stream_of_shard = np.empty(len(names), dtype=np.int64)
    for stream, members in enumerate(deal(weights.tolist(), streams)):
        stream_of_shard[members] = stream
    return stream_of_shard[shard_of]


def _blocks(stream_of: Ints, shards: Ints, block: int) -> tuple[Ints, Ints, Ints]:
    """Cut shards into blocks: (samples [n] by shard, block of each [n], stream of each block)."""
    sequence = np.argsort(shards, kind="stable")
    shard = shards[sequence]
    within = np.arange(len(sequence)) - np.searchsorted(shard, shard)
    starts = within % block == 0
    return sequence, np.cumsum(starts) - 1, stream_of[sequence[starts]]

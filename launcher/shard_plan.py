"""Which samples make up which global batch: a pure function of (tokens, shards, seed, step).

The data set is cut into C streams of whole shards; an epoch shuffles each of them and merges them
(`launcher.shard_order`), and is then cut into batches (`launcher.batches`): an epoch shows every
sample exactly once. Nothing here knows how many ranks or nodes there are: `launcher.assignment`
splits a finished batch over them, which is why a run can go on with another number of them.

Epochs are computed when they are first asked for and kept in `NodeArrays`, so that the processes of
a node compute each of them once and read slices.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher.assignment import deal
from launcher.batches import bucketed, cut_samples, cut_tokens
from launcher.draws import draw
from launcher.node_arrays import Arrays, NodeArrays
from launcher.shard_order import Ints, Numbers, Streams, epoch_order, split_streams

__all__ = ["ShardPlan", "deal", "draw"]

EPOCHS_KEPT = 2  # epochs whose order is kept: the current one and the one prefetched


class ShardPlan:
    """The order of a training run. `tokens[i]` and `shards[i]` describe sample i of the index.

    Exactly one of `batch_samples` (samples per global batch) and `batch_tokens` (budget of tokens
    per global batch; a sample above the budget gets a batch of its own) must be given. Samples
    must be listed as they lie on disk: `block` consecutive samples of a shard are read together.
    With `bucket` (and `batch_samples`) the samples of a batch are of about one size, which keeps
    ranks even when each gets very few of them.
    """

    def __init__(
        self,
        tokens: Sequence[int] | Numbers,
        shards: Sequence[int] | Numbers,
        *,
        seed: int,
        streams: int = 1,
        block: int = 64,
        batch_samples: int | None = None,
        batch_tokens: int | None = None,
        bucket: bool = False,
        arrays: NodeArrays | None = None,
    ) -> None:
        self._arrays = NodeArrays() if arrays is None else arrays
        own = self._arrays.get("samples", lambda: {
            "tokens": np.asarray(tokens, dtype=np.int64),
            "shards": np.asarray(shards, dtype=np.int64),
        })  # fmt: skip
        self.tokens, self.shards = own["tokens"], own["shards"]  # [n], [n]
        if self.tokens.ndim != 1 or self.tokens.shape != self.shards.shape:
            raise ValueError("tokens and shards must be two lists of the same length")
        if len(self.tokens) == 0:
            raise ValueError("the plan needs at least one sample")
        if int(self.tokens.min()) < 0:
            raise ValueError("token counts must not be negative")
        if (batch_samples is None) == (batch_tokens is None):
            raise ValueError("give exactly one of batch_samples and batch_tokens")
        if bucket and batch_samples is None:  # budgets would turn like sizes into unlike numbers
            raise ValueError("data.bucket needs train.batch_samples, not train.batch_tokens")
        for name, value in (
            ("batch_samples", batch_samples),
            ("batch_tokens", batch_tokens),
            ("streams", streams),
            ("block", block),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.seed, self.block, self.bucket = seed, block, bucket
        self.batch_samples, self.batch_tokens = batch_samples, batch_tokens
        found = self._arrays.get("streams", lambda: self._split(streams))
        self.streams = Streams(found["shards"], found["stream"], streams)
        self._kept: list[int] = []  # epochs in `_arrays`
        self._ends: list[int] = []  # _ends[e] = steps of the epochs 0 … e together

    def __getstate__(self) -> dict[str, Any]:
        elsewhere = {"tokens": None, "shards": None} if self._arrays.shared else {}
        return {**self.__dict__, **elsewhere}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["tokens"] is None:
            own = self._arrays.known("samples")
            if own is None:
                raise FileNotFoundError("the files of the plan are gone; start the run again")
            self.tokens, self.shards = own["tokens"], own["shards"]

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within the epoch) of the global step that follows `step` consumed ones."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        if self.batch_samples is not None:  # every epoch has the same number of batches
            return divmod(step, -(-len(self.tokens) // self.batch_samples))
        while not self._ends or self._ends[-1] <= step:
            epoch = len(self._ends)
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self._steps(epoch))
        epoch = bisect.bisect_right(self._ends, step)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def batch(self, step: int) -> list[int]:
        """Sample indices of a global batch; the position in this list is the sample's identity."""
        epoch, local = self.locate(step)
        plan = self._epoch(epoch)
        order, cuts = plan["order"], plan["cuts"]
        members: list[int] = order[cuts[local] : cuts[local + 1]].tolist()
        return members

    def steps_of_epoch(self, epoch: int) -> int:
        """How many global batches an epoch has."""
        return len(self._epoch(epoch)["cuts"]) - 1

    def streams_of(self, samples: Sequence[int]) -> list[int]:
        """The stream of each of these samples."""
        return self.streams.of(self.shards[np.asarray(samples, dtype=np.int64)]).tolist()

    def substitute(self, step: int, position: int, attempt: int) -> int:
        """The sample that stands in for a damaged one, the same on every rank.

        Candidates are the other samples of the same stream (of all streams, if it has no other),
        those that need no more tokens first, from a random start; attempt 0, 1, … walks through
        them without repetition. Raises ValueError when there is none left.
        """
        wanted = self.batch(step)[position]
        others = self._neighbours(wanted)
        if not 0 <= attempt < len(others):
            raise ValueError(f"no substitute left for sample {wanted} after {attempt} attempts")
        fits = self.tokens[others] <= self.tokens[wanted]
        small, large = others[fits], others[~fits]
        if len(small):
            start = draw(self.seed, "substitute", step, position, choices=len(small))
            small = np.roll(small, -start)
        large = large[np.argsort(self.tokens[large], kind="stable")]
        return int(np.concatenate([small, large])[attempt])

    def _split(self, streams: int) -> Arrays:
        # Where like sizes stand together it is numbers of samples that have to be even.
        weights = np.ones_like(self.tokens) if self.bucket else self.tokens
        found = split_streams(weights, self.shards, streams)
        return {"shards": found.shards, "stream": found.stream}

    def _neighbours(self, wanted: int) -> Ints:
        """The other samples of the same stream, or of all streams if it has no other."""
        own = self.streams.of(self.shards[wanted : wanted + 1])[0]
        in_stream = self.streams.shards[self.streams.stream == own]
        others = np.flatnonzero(np.isin(self.shards, in_stream))
        if len(others) == 1:
            others = np.arange(len(self.tokens))
        return others[others != wanted]

    def _epoch(self, epoch: int) -> Arrays:
        """`order` [n] and `cuts` [batches + 1]: batch i is order[cuts[i]:cuts[i + 1]]."""
        found = self._arrays.get(f"epoch_{epoch}", lambda: self._made(epoch))
        if epoch not in self._kept:
            self._kept.append(epoch)
            while len(self._kept) > EPOCHS_KEPT:
                self._arrays.drop(f"epoch_{self._kept.pop(0)}")
        return found

    def _made(self, epoch: int) -> Arrays:
        order = epoch_order(
            self.tokens, self.shards, self.streams,
            seed=self.seed, epoch=epoch, block=self.block, in_turn=self.bucket,
        )  # fmt: skip
        cuts = self._cut(order)
        if self.bucket:
            stream = self.streams.of(self.shards[order])
            order = bucketed(order, cuts, self.tokens[order], stream, self.seed, epoch)
        return {"order": order, "cuts": cuts}

    def _cut(self, order: Numbers) -> Ints:
        if self.batch_samples is not None:
            return cut_samples(len(order), self.batch_samples)
        assert self.batch_tokens is not None
        return cut_tokens(self.tokens[order], self.batch_tokens)

    def _steps(self, epoch: int) -> int:
        """Global batches of an epoch; remembered on the node when its order no longer is."""
        name = f"steps_{epoch}"
        found = self._arrays.known(name)
        if found is None:
            steps = np.array([self.steps_of_epoch(epoch)])
            found = self._arrays.get(name, lambda: {"steps": steps})
        return int(found["steps"][0])

"""Which shards the coming steps read, from the plan of the samples alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


class Upcoming:
    """`upcoming(step, count)`: the shards of `count` steps from `step` on, first needed first.

    Called once per step it asks the plan for one further batch each time.
    """

    def __init__(
        self,
        batch: Callable[[int], Sequence[int]],
        shard_of: Sequence[int] | NDArray[np.int64],
        names: Sequence[str],
        steps: int | None = None,
    ) -> None:
        """
        Args:
            batch: the samples of a step: of the global batch, or of this node's or rank's part.
            shard_of: the number of the shard of each sample, `SDFDataset.shard_numbers`.
            names: of the shards, by number.
            steps: of the whole run; none is looked at from there on. None: there is no end.
        """
        self._batch, self._shard_of, self._names = batch, shard_of, names
        self._steps = steps
        self._of_step: dict[int, list[int]] = {}  # the shards of the steps asked for last

    def __call__(self, step: int, count: int) -> list[str]:
        """Names of shards, each once."""
        end = step + count if self._steps is None else min(step + count, self._steps)
        known = self._of_step
        self._of_step = {s: known[s] if s in known else self._shards(s) for s in range(step, end)}
        numbers = dict.fromkeys(n for shards in self._of_step.values() for n in shards)
        return [self._names[number] for number in numbers]

    def _shards(self, step: int) -> list[int]:
        return list(dict.fromkeys(int(self._shard_of[i]) for i in self._batch(step)))

"""What this rank reads for each step, prefetched, and resumable by a single number.

The plan (`launcher.shard_plan`) says which samples a step contains and `launcher.assignment` which
rank gets them; this file cuts a rank's share into micro-batches and packs them. The only state is
the step: what was prefetched but not trained on is simply read again after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from launcher.assignment import Placement, assign, imbalance, make_groups
from launcher.node_arrays import NodeArrays
from launcher.shard_plan import ShardPlan, draw
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.staging.fetch import FetchError
from threed_gen.errors import UserError
from threed_gen.training.run_config import RunConfig
from threed_gen.training.tasks.base import MicroBatch, Samples

MAX_SUBSTITUTES = 8  # tries per bad sample before the data set as a whole is called bad


@dataclass(frozen=True)
class StepData:
    """One rank's part of one global batch.

    Attributes:
        step: 0-based optimiser step.
        batch_size: samples of the *global* batch.
        micro: this rank's micro-batches, always `train.accumulation` of them.
        samples: dataset index actually read for each position that this rank owns.
        imbalance: tokens of the fullest rank over their mean, as the ranks share the batch.
        problems: one line for each bad sample met on this rank.
        fatal: whether those problems must stop the run.
    """

    step: int
    epoch: int
    resolution: int
    batch_size: int
    micro: list[MicroBatch]
    samples: dict[int, int]
    imbalance: float = 1.0
    problems: list[str] = field(default_factory=list)
    fatal: bool = False


class StepDataset(Dataset[StepData]):
    """Maps a step number to this rank's `StepData`."""

    def __init__(
        self, config: RunConfig, samples: Samples, rank: int, ranks: int,
        placement: Placement | None = None, arrays: NodeArrays | None = None,
    ) -> None:  # fmt: skip
        """All ranks are on one node without `placement`; without `arrays` nothing is shared."""
        self.config, self.samples, self.rank = config, samples, rank
        self.dataset = samples.dataset
        self.plan = make_plan(config, self.dataset, arrays)
        self._groups = make_groups(
            config.data.streams, Placement.even(1, ranks) if placement is None else placement
        )

    def __len__(self) -> int:
        return self.config.train.steps

    def own_samples(self, step: int) -> list[int]:
        """The samples that this rank reads in a step, unless one of them is damaged."""
        chosen, _, dealt = self._dealt(step, self._resolution(step))
        return [chosen[position] for position in dealt[self.rank]]

    def _resolution(self, step: int) -> int:
        choices = self.config.data.resolutions
        return choices[draw(self.config.seed, step, "resolution", choices=len(choices))]

    def _dealt(self, step: int, resolution: int) -> tuple[list[int], list[int], list[list[int]]]:
        """(samples of the global batch, their tokens, positions of each rank)."""
        chosen = self.plan.batch(step)
        tokens: list[int] = self.dataset.token_counts(resolution)[chosen].tolist()
        return chosen, tokens, assign(tokens, self.plan.streams_of(chosen), self._groups)

    def __getitem__(self, step: int) -> StepData:
        train, resolution = self.config.train, self._resolution(step)
        chosen, tokens, dealt = self._dealt(step, resolution)
        own = dealt[self.rank]
        loaded: dict[int, tuple[int, Any]] = {}
        problems: list[str] = []
        fatal = False
        for position in own:
            try:
                loaded[position] = self._load(
                    step, position, chosen[position], resolution, problems
                )
            except UserError as err:
                problems.append(str(err))
                fatal = True
        micro = [self._pack(part, loaded) for part in _split(sorted(loaded), train.accumulation)]
        return StepData(
            step, self.plan.locate(step)[0], resolution, len(chosen),
            [part if part is not None else self.samples.padding(resolution) for part in micro],
            {position: index for position, (index, _) in loaded.items()},
            imbalance(tokens, dealt), problems, fatal,
        )  # fmt: skip

    def _load(
        self, step: int, position: int, index: int, resolution: int, problems: list[str]
    ) -> tuple[int, Any]:
        """The sample, or under `on_bad_sample: substitute` the plan's stand-in for it."""
        attempt = 0
        while True:
            try:
                return index, self.samples.load(index, resolution, step, position)
            except FetchError:  # the network is not the sample's fault, and no other one is nearer
                raise
            except UserError as err:
                if self.config.data.on_bad_sample == "stop" or attempt == MAX_SUBSTITUTES:
                    raise
                try:
                    index = self.plan.substitute(step, position, attempt)
                except ValueError:  # no other sample is left
                    raise err from None
                problems.append(str(err))
                attempt += 1

    def _pack(self, positions: list[int], loaded: dict[int, tuple[int, Any]]) -> MicroBatch | None:
        if not positions:
            return None
        return self.samples.pack(
            [loaded[position][1] for position in positions],
            [self.dataset.entry(loaded[position][0]).id for position in positions],
            positions,
        )


def make_plan(
    config: RunConfig, dataset: SDFDataset, arrays: NodeArrays | None = None
) -> ShardPlan:
    """The order of the data: depends on the data set, the seed and the batch size alone."""
    batch_samples = config.train.batch_samples
    if batch_samples is None and config.train.batch_tokens is None:
        batch_samples = 1
    # Tokens at the largest stored resolution: the plan must not change with a step's draw.
    finest = max(config.data.resolutions)
    try:
        return ShardPlan(
            dataset.token_counts(finest), dataset.shard_numbers(finest),
            seed=config.seed, streams=config.data.streams, block=config.data.block,
            batch_samples=batch_samples, batch_tokens=config.train.batch_tokens,
            bucket=config.data.bucket, arrays=arrays,
        )  # fmt: skip
    except ValueError as err:
        raise UserError(f"{dataset.path}: {err}") from err


def step_data(dataset: StepDataset, start: int) -> Iterator[StepData]:
    """The steps from `start` on, prefetched by `data.workers` processes (0: none).

    With `data.stage.dir` the shards of coming steps are copied to this node meanwhile.
    """
    workers = dataset.config.data.workers
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, len(dataset)),
        num_workers=workers,
        # fork would copy running OpenMP and gloo threads' locks into the child
        multiprocessing_context="spawn" if workers else None,
        pin_memory=False,
    )
    staging = dataset.dataset.staging(dataset.own_samples, len(dataset))
    try:
        if staging is not None:
            staging.at(start)
        for step, data in enumerate(loader, start):
            if staging is not None:
                staging.at(step + 1)
            yield data
    finally:
        if staging is not None:
            staging.close()


def _split(positions: list[int], parts: int) -> list[list[int]]:
    """Consecutive, nearly equal parts; some may be empty."""
    bounds = np.linspace(0, len(positions), parts + 1).round().astype(int)
    return [positions[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def set_threads(threads: int) -> None:
    """Threads of this process; denormals are flushed before any thread starts (see docs)."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)

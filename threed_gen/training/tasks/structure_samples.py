"""What the structure stage trains on: the latent cells of shapes as dense grids, packed.

A cell exists where a shape at resolution R has an active 8³ brick, so the grid has R/8 cells per
axis. Every sample costs the same, however many of its cells exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed_gen.data.dataset import SDFDataset
from threed_gen.generation.structure import occupancy_of
from threed_gen.geometry.sparse_sdf import BRICK
from threed_gen.training.tasks.shown import ConditionReader, ShownBatch


@dataclass(frozen=True)
class OccupancyBatch:
    """Packed samples of one micro-batch.

    Attributes:
        occupancy: bool [B, 1, G, G, G].
        shown: what the conditioner takes, of each sample; None where nothing is shown.
        tokens: of each sample, all alike.
        positions: each sample's index in the global batch.
        names: each sample's id.
        is_padding: a stand-in that keeps collective calls of the ranks in step; its loss is 0.
    """

    occupancy: Tensor
    shown: ShownBatch | None
    tokens: list[int]
    positions: list[int]
    names: list[str]
    is_padding: bool = False

    def to(self, device: torch.device) -> OccupancyBatch:
        """The batch with all tensors on `device`."""
        shown = None if self.shown is None else self.shown.to(device, non_blocking=True)
        return replace(self, occupancy=self.occupancy.to(device, non_blocking=True), shown=shown)


@dataclass(frozen=True)
class OccupancyItem:
    """One sample: the cells that it has, and what it is shown with."""

    cells: NDArray[np.int32]  # [T, 3] in [0, grid)
    grid: int
    shown: Any


class EqualDataset(SDFDataset):
    """The samples of a data set, planned by what a dense grid costs: all the same."""

    def __init__(self, dataset: SDFDataset, cells_per_token: int) -> None:
        self.__dict__.update(vars(dataset))
        self.cells_per_token = cells_per_token

    def token_counts(self, resolution: int) -> NDArray[np.int64]:
        """Tokens of the dense grid, for every sample."""
        self.source_resolution(resolution)  # says so if there is none
        return np.broadcast_to(np.int64(self.tokens_of_grid(resolution // BRICK)), len(self))

    def tokens_of_grid(self, grid: int) -> int:
        """Of one sample."""
        return grid**3 // self.cells_per_token


@dataclass(frozen=True)
class OccupancySamples:
    """Reads occupancy, and what is shown with it where there is a reader."""

    dataset: EqualDataset
    reader: ConditionReader | None = None

    def load(self, index: int, resolution: int, step: int, position: int) -> OccupancyItem:
        """The cells of a sample and what it is shown with, for one place of one step."""
        shown = None
        if self.reader is not None:
            shown = self.reader.draw(self.dataset.entry(index), step, position)
        return self._item(index, resolution, shown)

    def fixed(self, index: int, resolution: int) -> OccupancyItem:
        """The same always: the reader's fixed choice, for validation."""
        reader = self.reader
        shown = None if reader is None else reader.fixed(self.dataset.entry(index))
        return self._item(index, resolution, shown)

    def _item(self, index: int, resolution: int, shown: Any) -> OccupancyItem:
        return OccupancyItem(
            self.dataset.load(index, resolution).bricks, resolution // BRICK, shown
        )

    def pack(
        self, items: Sequence[OccupancyItem], names: Sequence[str], positions: Sequence[int]
    ) -> OccupancyBatch:
        """Items of one grid size."""
        grids = {item.grid for item in items}
        assert len(grids) == 1, f"a batch needs one grid, got {sorted(grids)}"
        grid = grids.pop()
        shown = None if self.reader is None else self.reader.pack([item.shown for item in items])
        return OccupancyBatch(
            occupancy_of([item.cells for item in items], grid), shown,
            [self.dataset.tokens_of_grid(grid)] * len(items), list(positions), list(names),
        )  # fmt: skip

    def padding(self, resolution: int) -> OccupancyBatch:
        """An empty grid that is shown with nothing, where a rank has no sample left."""
        blank = None if self.reader is None else self.reader.blank()
        item = OccupancyItem(np.zeros((0, 3), np.int32), resolution // BRICK, blank)
        return replace(self.pack([item], [""], [0]), is_padding=True)

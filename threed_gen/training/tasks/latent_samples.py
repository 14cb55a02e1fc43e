"""What an SS-DiT trains on: the latents of shapes, and what each is shown with, packed.

What is shown (`shown.ConditionReader`) and the posterior's sample are drawn from (seed, step, place
in the global batch), so they are the same on any number of ranks.
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
from threed_gen.data.latents.source import LatentSource, x0_of
from threed_gen.models.ss_dit import SSDiTConfig, prepare_grid
from threed_gen.models.ss_vae import LEVELS
from threed_gen.randomness import generator
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid
from threed_gen.training.tasks.shown import ConditionReader, ShownBatch


@dataclass(frozen=True)
class LatentBatch:
    """Packed samples of one micro-batch.

    Attributes:
        latents: x0 of the flow, normalised, feats [N, L] on the grid of latent cells.
        shown: what the conditioner takes, of each sample.
        tokens: latent tokens of each sample.
        positions: each sample's index in the global batch.
        names: each sample's id.
        is_padding: a stand-in that keeps collective calls of the ranks in step; its loss is 0.
    """

    latents: SparseTensor
    shown: ShownBatch
    tokens: list[int]
    positions: list[int]
    names: list[str]
    is_padding: bool = False

    def to(self, device: torch.device) -> LatentBatch:
        """The batch with all tensors and grid caches on `device`."""
        return replace(
            self,
            latents=self.latents.to(device, non_blocking=True),
            shown=self.shown.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class LatentItem:
    """One sample: its latent cells, their normalised latents, and what it is shown with."""

    bricks: NDArray[np.int32]  # [T, 3]
    x0: Tensor  # [T, L], float32
    resolution: int  # of the voxels
    shown: Any


@dataclass(frozen=True)
class LatentSamples:
    """Reads latents and what is shown with them, and packs them for the SS-DiT."""

    dataset: SDFDataset
    latents: LatentSource
    reader: ConditionReader
    model: SSDiTConfig  # for its index tables
    draw_latents: str  # "mode" or "sample"
    seed: int

    def load(self, index: int, resolution: int, step: int, position: int) -> LatentItem:
        """Latents of a sample and what it is shown with, for one place of one step."""
        shown = self.reader.draw(self.dataset.entry(index), step, position)
        drawn = None
        if self.draw_latents == "sample":
            drawn = generator(self.seed, step, "latent", position)
        return self._item(index, resolution, drawn, shown)

    def fixed(self, index: int, resolution: int) -> LatentItem:
        """The same always: the posterior's mean, and the reader's fixed choice, for validation."""
        return self._item(index, resolution, None, self.reader.fixed(self.dataset.entry(index)))

    def _item(
        self, index: int, resolution: int, draw: torch.Generator | None, shown: Any
    ) -> LatentItem:
        latent = self.latents.load(index, resolution)
        x0 = x0_of(latent, self.latents.statistics, draw)
        return LatentItem(latent.bricks, x0, latent.resolution, shown)

    def pack(
        self, items: Sequence[LatentItem], names: Sequence[str], positions: Sequence[int]
    ) -> LatentBatch:
        """All index tables are built here, in a loader's worker where there is one."""
        resolutions = {item.resolution for item in items}
        assert len(resolutions) == 1, f"a batch needs one resolution, got {sorted(resolutions)}"
        coords = np.concatenate(
            [np.insert(item.bricks, 0, number, axis=1) for number, item in enumerate(items)]
        ).astype(np.int32)
        grid, order = VoxelGrid.from_coords(
            torch.from_numpy(coords), resolutions.pop() >> LEVELS, len(items)
        )
        prepare_grid(grid, self.model)
        return LatentBatch(
            SparseTensor(torch.cat([item.x0 for item in items])[order], grid),
            self.reader.pack([item.shown for item in items]),
            [len(item.bricks) for item in items], list(positions), list(names),
        )  # fmt: skip

    def padding(self, resolution: int) -> LatentBatch:
        """One cell that is shown with nothing, where a rank has no sample left."""
        none = torch.zeros(1, self.model.latent_channels)
        item = LatentItem(np.zeros((1, 3), np.int32), none, resolution, self.reader.blank())
        return replace(self.pack([item], [""], [0]), is_padding=True)

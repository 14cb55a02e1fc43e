"""What an SS-DiT trains on: the latents of shapes, and one picture of each, packed.

A shape shows a different view in every step; view, augmentation and posterior sample are drawn
from (seed, step, place in the global batch), so they are the same on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.source import LatentSource, x0_of
from threed_gen.data.views.view_set import ViewSet
from threed_gen.models.conditioning.source import PictureBatch, PictureItem, PictureSource
from threed_gen.models.ss_dit import SSDiTConfig, prepare_grid
from threed_gen.models.ss_vae import LEVELS
from threed_gen.randomness import generator
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class LatentBatch:
    """Packed samples of one micro-batch.

    Attributes:
        latents: x0 of the flow, normalised, feats [N, L] on the grid of latent cells.
        pictures: one for each sample.
        tokens: latent tokens of each sample.
        positions: each sample's index in the global batch.
        names: each sample's id.
        is_padding: a stand-in that keeps collective calls of the ranks in step; its loss is 0.
    """

    latents: SparseTensor
    pictures: PictureBatch
    tokens: list[int]
    positions: list[int]
    names: list[str]
    is_padding: bool = False

    def to(self, device: torch.device) -> LatentBatch:
        """The batch with all tensors and grid caches on `device`."""
        return replace(
            self,
            latents=self.latents.to(device, non_blocking=True),
            pictures=self.pictures.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class LatentItem:
    """One sample: its latent cells, their normalised latents, and its picture."""

    bricks: NDArray[np.int32]  # [T, 3]
    x0: Tensor  # [T, L], float32
    resolution: int  # of the voxels
    picture: PictureItem


@dataclass(frozen=True)
class LatentSamples:
    """Reads latents and pictures, and packs them for the SS-DiT."""

    dataset: SDFDataset
    latents: LatentSource
    views: ViewSet
    pictures: PictureSource
    model: SSDiTConfig  # for its index tables
    draw_latents: str  # "mode" or "sample"
    seed: int

    def load(self, index: int, resolution: int, step: int, position: int) -> LatentItem:
        """Latents and a drawn view of a sample, for one place of one step."""
        draw = partial(generator, self.seed, step)
        name = self.dataset.entry(index).id
        number = torch.randint(self.views.count(name), (), generator=draw("view", position))
        view = self.views.load(name, int(number))
        return self.item(
            index, resolution, draw("latent", position),
            self.pictures.read(view.rgba, view.sha256, draw("augmentation", position)),
        )  # fmt: skip

    def fixed(self, index: int, resolution: int, view: int = 0) -> LatentItem:
        """The same always: the posterior's mean and one view as it is, for validation."""
        shown = self.views.load(self.dataset.entry(index).id, view)
        mode = replace(self, draw_latents="mode")
        return mode.item(index, resolution, None, self.pictures.read(shown.rgba, shown.sha256))

    def item(
        self, index: int, resolution: int, draw: torch.Generator | None, picture: PictureItem
    ) -> LatentItem:
        """Normalised latents of a sample, beside its picture."""
        latent = self.latents.load(index, resolution)
        sampled = draw if self.draw_latents == "sample" else None
        x0 = x0_of(latent, self.latents.statistics, sampled)
        return LatentItem(latent.bricks, x0, latent.resolution, picture)

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
            self.pictures.pack([item.picture for item in items]),
            [len(item.bricks) for item in items], list(positions), list(names),
        )  # fmt: skip

    def padding(self, resolution: int) -> LatentBatch:
        """One cell with a blank picture, where a rank has no sample left."""
        blank = np.full((8, 8, 4), 255, np.uint8)
        item = LatentItem(
            np.zeros((1, 3), np.int32), torch.zeros(1, self.model.latent_channels), resolution,
            self.pictures.read(blank),
        )  # fmt: skip
        return replace(self.pack([item], [""], [0]), is_padding=True)

"""Training a structure DiT: rectified flow on a dense grid, given a picture or a caption.

x0 is what a frozen structure VAE says of a shape's occupancy, normalised by measured statistics, or
the occupancy itself. It is encoded where the module is, a batch at once.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.flow.path import Draw
from threed_gen.generation.structure import StructureSpace, as_rows, on_dense_grid
from threed_gen.models.structure_dit import StructureDiT
from threed_gen.randomness import generator
from threed_gen.training.load_structure import LoadedStructureVAE, read_space, vae_of
from threed_gen.training.run_config import RunConfig, StructureDiTRun
from threed_gen.training.tasks.base import ShapeResult, StepLoss, seed_weights
from threed_gen.training.tasks.flow import FlowModule, FlowTask
from threed_gen.training.tasks.latent_sources import SOURCES
from threed_gen.training.tasks.shown import AnyConditioner, Shown
from threed_gen.training.tasks.structure_samples import (
    EqualDataset,
    OccupancyBatch,
    OccupancySamples,
)
from threed_gen.training.tasks.structure_sources import remember


class StructureDiTModule(FlowModule):
    """The trained module over a dense grid."""

    config: StructureDiTRun

    def __init__(
        self, config: StructureDiTRun, space: StructureSpace,
        conditioner: AnyConditioner | None = None,
    ) -> None:  # fmt: skip
        """`conditioner`: one that is frozen and already loaded; None builds what config says."""
        super().__init__(config, StructureDiT(config.model), conditioner)
        self.space = space  # no submodule: its VAE is frozen, neither trained nor saved

    def forward(self, batch: OccupancyBatch, step: int) -> StepLoss:
        assert batch.shown is not None
        x0 = as_rows(self.x0(batch, partial(generator, self.config.seed, step)))  # [B·g³, C]
        lengths = [self.config.model.grid**3] * len(batch.positions)
        velocity = on_dense_grid(self.model, self.config.model.grid)
        return self.compare(velocity, x0, lengths, batch.shown, batch.positions, step)

    def x0(self, batch: OccupancyBatch, draw: Draw | None) -> Tensor:
        """The data end of the path, [B, C, g, g, g]; `draw` is used for draws of the posterior."""
        space, device, model = self.space, batch.occupancy.device, self.config.model
        noise = None
        if draw is not None and space.vae is not None and self.config.structure.draw == "sample":
            shape = (model.latent_channels, *[model.grid] * 3)
            drawn = [torch.randn(shape, generator=draw("latent", i)) for i in batch.positions]
            noise = torch.stack(drawn).to(device, non_blocking=True)
        return space.on(device).encode(batch.occupancy, noise)


class StructureDiTTask(FlowTask):
    """Everything the trainer asks about training a structure DiT."""

    config: StructureDiTRun

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, StructureDiTRun), config.task
        self.config = config
        self._space: StructureSpace | None = None

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Remember the structure VAE, and measure its latents."""
        remember(self.config, self._vae, dataset, run)

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """Views or captions; samples that lack them are left out, and named."""
        self._space = read_space(self.config, run / SOURCES, self._vae)
        self._shown = Shown(self.config.condition, dataset)
        return self.usable(dataset)

    def samples(self, dataset: SDFDataset) -> OccupancySamples:
        """Occupancy and what is shown with it; a token is one of the model."""
        config = self.config
        equal = EqualDataset(dataset, config.grid**3 // config.model.tokens)
        return OccupancySamples(equal, self.reader())

    @cached_property
    def _vae(self) -> LoadedStructureVAE | None:
        """Loaded and hashed once, though `prepare` and `open` both want it."""
        return vae_of(self.config)

    def build_module(self) -> nn.Module:
        """A fresh module."""
        assert self._space is not None, "open() comes first"
        seed_weights(self.config)
        module = StructureDiTModule(self.config, self._space)
        self.built(module)
        return module

    @property
    def silent_loss(self) -> float:
        """Of x0 and ε together; occupancy itself is ±scale."""
        on_latents = self._space is not None and self._space.vae is not None
        return 2.0 if on_latents else 1 + self.config.structure.scale**2

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Loss at fixed noise and times, and samples, of fixed shapes with the averaged weights."""
        from threed_gen.training.validate_structure import validate_structure_dit

        assert self._space is not None
        module = StructureDiTModule(self.config, self._space, self.frozen())
        module.load_state_dict(weights)
        return validate_structure_dit(
            module.to(device).eval(), self.samples(dataset), self.config, indices, device
        )

"""Training an SS-DiT: rectified flow on the latents of an SS-VAE, given a picture or a caption."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.flow.path import on_grid
from threed_gen.models.ss_dit import SSDiT
from threed_gen.training.encode import FrozenVAE
from threed_gen.training.run_config import RunConfig, SSDiTRun
from threed_gen.training.tasks.base import ShapeResult, StepLoss, seed_weights
from threed_gen.training.tasks.flow import FlowModule, FlowTask
from threed_gen.training.tasks.latent_samples import LatentBatch, LatentSamples
from threed_gen.training.tasks.latent_sources import (
    Latents,
    frozen_vae,
    open_latents,
    remember,
    usable,
)
from threed_gen.training.tasks.shown import AnyConditioner, Shown


class SSDiTModule(FlowModule):
    """The trained module over latents on their cells."""

    def __init__(self, config: SSDiTRun, conditioner: AnyConditioner | None = None) -> None:
        """`conditioner`: one that is frozen and already loaded; None builds what config says."""
        super().__init__(config, SSDiT(config.model), conditioner)

    def forward(self, batch: LatentBatch, step: int) -> StepLoss:
        velocity = on_grid(self.model, batch.latents.grid)
        return self.compare(
            velocity, batch.latents.feats, batch.tokens, batch.shown, batch.positions, step
        )


class SSDiTTask(FlowTask):
    """Everything the trainer asks about training an SS-DiT."""

    config: SSDiTRun

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, SSDiTRun), config.task
        self.config = config
        self._latents: Latents | None = None

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Remember SS-VAE and structure stage, and the statistics of the latents."""
        remember(self.config, self._vae, dataset, run)

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """Latents, and views or captions; samples that lack either are left out, and named."""
        self._latents = open_latents(self.config, self._vae, dataset, run)
        self._shown = Shown(self.config.condition, dataset)
        return self.usable(dataset)

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """The samples of a data set that have a latent and something to be shown with."""
        missing = self._opened.source.over(dataset).missing
        return super().usable(usable(dataset, missing, "no latent"))

    def samples(self, dataset: SDFDataset) -> LatentSamples:
        """Latents and what is shown with them, with the tables of this model."""
        source, config = self._opened.source.over(dataset), self.config
        return LatentSamples(
            dataset, source, self.reader(), config.model, config.latents.draw, config.seed
        )

    @cached_property
    def _vae(self) -> FrozenVAE | None:
        """Loaded and hashed once, though `prepare` and `open` both want it."""
        return frozen_vae(self.config)

    @property
    def _opened(self) -> Latents:
        assert self._latents is not None, "open() comes first"
        return self._latents

    def build_module(self) -> nn.Module:
        """A fresh module."""
        seed_weights(self.config)
        module = SSDiTModule(self.config)
        have, want = self.config.model.latent_channels, self._opened.source.channels
        if have != want:
            key = "model.latent_channels"
            raise UserError(f"{key}: is {have}, but the SS-VAE has {want}; set it to {want}")
        self.built(module)
        return module

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Loss at fixed noise and times, and samples, of fixed shapes with the averaged weights."""
        from threed_gen.training.validate_flow import validate_flow

        module = SSDiTModule(self.config, self.frozen())
        module.load_state_dict(weights)
        return validate_flow(
            module.to(device).eval(), self.samples(dataset), self._opened.decoder(device),
            self.config, indices, device,
        )  # fmt: skip

"""Training an SS-DiT: rectified flow on the latents of an SS-VAE, given a picture or a caption.

    L = mean over tokens and channels of (v(x_t, t, c) − (ε − x0))²,   x_t = (1 − t)·x0 + t·ε

Each sample has its own time and noise, and forgets its condition with some probability
(classifier-free guidance). Every draw is keyed by seed, step and place in the global batch.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.flow.guidance import draw_dropped, drop_condition
from threed_gen.flow.loss import by_time_bin, flow_loss, time_bin_means
from threed_gen.flow.path import draw_noise, interpolate, velocity_target
from threed_gen.flow.times import draw_times
from threed_gen.models.conditioning.conditioner import Conditioner
from threed_gen.models.conditioning.text import TextConditioner
from threed_gen.models.ss_dit import SSDiT
from threed_gen.randomness import generator
from threed_gen.training.encode import FrozenVAE
from threed_gen.training.run_config import RunConfig, SSDiTRun
from threed_gen.training.tasks.base import ShapeResult, StepLoss
from threed_gen.training.tasks.latent_samples import LatentBatch, LatentSamples
from threed_gen.training.tasks.latent_sources import (
    Latents,
    frozen_vae,
    open_latents,
    remember,
    usable,
)
from threed_gen.training.tasks.shown import Shown, conditioner_of

TERMS: tuple[str, ...] = ("velocity",)
AnyConditioner = Conditioner | TextConditioner
WATCHED: tuple[str, ...] = ("time", "dropped", "condition_tokens")


class SSDiTModule(nn.Module):
    """The trained module: look at the pictures, go to a time of the path, compare velocities."""

    def __init__(self, config: SSDiTRun, conditioner: AnyConditioner | None = None) -> None:
        """`conditioner`: one that is frozen and already loaded; None builds what config says."""
        super().__init__()
        self.model = SSDiT(config.model)
        self.conditioner = conditioner or conditioner_of(config.condition)
        self.config = config

    def forward(self, batch: LatentBatch, step: int) -> StepLoss:
        config, device = self.config, batch.latents.feats.device
        draw = partial(generator, config.seed, step)
        x0, lengths, positions = batch.latents.feats, batch.tokens, batch.positions
        t = draw_times(config.flow.times, draw, positions)
        dropped = draw_dropped(config.flow.condition_dropout, draw, positions)
        noise = draw_noise(draw, positions, lengths, x0.shape[1]).to(device, non_blocking=True)
        times = t.to(device, non_blocking=True)
        x_t = interpolate(x0, noise, times, lengths)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            condition = self.conditioner(batch.shown)
            kept = drop_condition(condition.feats, condition.seqlens, dropped)
            velocity = self.model(
                batch.latents.replace(x_t), times, condition._replace(feats=kept)
            ).feats
        loss = flow_loss(velocity, velocity_target(x0, noise), lengths)
        counts = torch.tensor(condition.seqlens, dtype=torch.float32)
        watched = torch.stack([t, dropped.float(), counts], dim=1)
        return StepLoss(loss, loss.detach()[:, None], watched.to(device, non_blocking=True))


class SSDiTTask:
    """Everything the trainer asks about training an SS-DiT."""

    term_names = TERMS
    watched_names = WATCHED
    watched_group = "flow"

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, SSDiTRun), config.task
        self.config = config
        self._latents: Latents | None = None
        self._conditioner: AnyConditioner | None = None
        self._shown: Shown | None = None

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Remember the SS-VAE; measure the latents' statistics where they come on the fly."""
        remember(self.config, self._vae, dataset, run)

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """Latents, and views or captions; samples that lack either are left out, and named."""
        self._latents = open_latents(self.config, self._vae, dataset, run)
        self._shown = Shown(self.config.condition, dataset)
        return self.usable(dataset)

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """The samples of a data set that have a latent and something to be shown with."""
        with_latents = usable(dataset, self._opened.source.over(dataset).missing, "no latent")
        assert self._shown is not None
        return usable(with_latents, self._shown.missing(dataset), self._shown.rule)

    def samples(self, dataset: SDFDataset) -> LatentSamples:
        """Latents and what is shown with them, with the tables of this model."""
        assert self._conditioner is not None and self._shown is not None
        source, config = self._opened.source.over(dataset), self.config
        return LatentSamples(
            dataset, source, self._shown.reader(self._conditioner, config.seed), config.model,
            config.latents.draw, config.seed,
        )  # fmt: skip

    @cached_property
    def _vae(self) -> FrozenVAE | None:
        """Loaded and hashed once, though `prepare` and `open` both want it."""
        return frozen_vae(self.config)

    @property
    def _opened(self) -> Latents:
        assert self._latents is not None, "open() comes first"
        return self._latents

    def build_module(self) -> nn.Module:
        """A fresh module, its weights drawn from `init_seed`, or else from the run's seed."""
        config = self.config
        torch.manual_seed(config.seed if config.init_seed is None else config.init_seed)
        module = SSDiTModule(config)
        self._conditioner = module.conditioner
        latents, images = self._opened.source.channels, module.conditioner.channels
        told = {
            "model.latent_channels": (config.model.latent_channels, latents, "the SS-VAE"),
            "model.condition_channels": (config.model.condition_channels, images, "the encoder"),
        }
        for key, (have, want, whose) in told.items():
            if have != want:
                raise UserError(f"{key}: is {have}, but {whose} has {want}; set it to {want}")
        return module

    def weights_of(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of it: the model's, and a trained conditioner's."""
        return state

    def summary(self, loss: Tensor, watched: Tensor) -> dict[str, Any]:
        """The loss by time: {"0.30-0.40": [mean, samples]}."""
        bins = time_bin_means(by_time_bin(loss, watched[:, 0]).sum(0))
        return {"time_bins": {name: list(one) for name, one in bins.items()}}

    def score(self, mean: dict[str, Any]) -> float | None:
        """Minus the validation loss."""
        loss = mean.get("loss")
        return None if loss is None else -float(loss)

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """A loss that a model which says nothing would have: x0 and ε have unit variance each."""
        loss = averages["velocity"]
        if loss <= 3:
            return []
        line = f"the loss is {loss:.3g} on average; a model that says nothing has 2"
        return [f"{line}. Lower train.learning_rate"]

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Loss at fixed noise and times, and samples, of fixed shapes with the averaged weights."""
        from threed_gen.training.validate_flow import validate_flow

        conditioner = self._conditioner
        assert conditioner is not None
        module = SSDiTModule(self.config, None if conditioner.trains else conditioner)
        module.load_state_dict(weights)
        return validate_flow(
            module.to(device).eval(), self.samples(dataset), self._opened.decoder(device),
            self.config, indices, device,
        )  # fmt: skip

"""What the tasks of diffusion transformers share: rectified flow, given a picture or a caption.

    L = mean over tokens and channels of (v(x_t, t, c) − (ε − x0))²,   x_t = (1 − t)·x0 + t·ε

Each sample has its own time and noise, and forgets its condition with some probability
(classifier-free guidance). Every draw is keyed by seed, step and place in the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.flow.guidance import draw_dropped, drop_condition
from threed_gen.flow.loss import by_time_bin, flow_loss, time_bin_means
from threed_gen.flow.path import Velocity, draw_noise, interpolate, velocity_target
from threed_gen.flow.times import draw_times
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.randomness import generator
from threed_gen.training.run_config import SSDiTRun, StructureDiTRun
from threed_gen.training.tasks.base import StepLoss
from threed_gen.training.tasks.latent_sources import usable
from threed_gen.training.tasks.shown import (
    AnyConditioner,
    ConditionReader,
    Shown,
    ShownBatch,
    conditioner_of,
)

FlowRun = SSDiTRun | StructureDiTRun
TERMS: tuple[str, ...] = ("velocity",)
WATCHED: tuple[str, ...] = ("time", "dropped", "condition_tokens")


class FlowModule(nn.Module):
    """The trained module: look at what is shown, go to a time of the path, compare velocities."""

    def __init__(
        self, config: FlowRun, model: nn.Module, conditioner: AnyConditioner | None = None
    ) -> None:
        """`conditioner`: one that is frozen and already loaded; None builds what config says."""
        super().__init__()
        self.model = model
        self.conditioner = conditioner or conditioner_of(config.condition)
        self.config = config

    def compare(
        self, velocity: Velocity[PackedTokens], x0: Tensor, lengths: Sequence[int],
        shown: ShownBatch, positions: Sequence[int], step: int,
    ) -> StepLoss:  # fmt: skip
        """The loss of each sample at a time and with a noise of its own.

        Args:
            velocity: the model, of packed rows.
            x0: the data end of the path, [N, C]: `lengths` rows of each sample.
            positions: each sample's index in the global batch.
        """
        config, device = self.config, x0.device
        draw = partial(generator, config.seed, step)
        t = draw_times(config.flow.times, draw, positions)
        dropped = draw_dropped(config.flow.condition_dropout, draw, positions)
        noise = draw_noise(draw, positions, lengths, x0.shape[1]).to(device, non_blocking=True)
        times = t.to(device, non_blocking=True)
        x_t = interpolate(x0, noise, times, lengths)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            condition: PackedTokens = self.conditioner(shown)
            kept = drop_condition(condition.feats, condition.seqlens, dropped)
            said = velocity(x_t, times, condition._replace(feats=kept))
        loss = flow_loss(said, velocity_target(x0, noise), lengths)
        counts = torch.tensor(condition.seqlens, dtype=torch.float32)
        watched = torch.stack([t, dropped.float(), counts], dim=1)
        return StepLoss(loss, loss.detach()[:, None], watched.to(device, non_blocking=True))


class FlowTask:
    """The answers to the trainer that do not depend on what is denoised."""

    term_names = TERMS
    watched_names = WATCHED
    watched_group = "flow"
    config: FlowRun
    _shown: Shown | None = None
    _conditioner: AnyConditioner | None = None

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """The samples of a data set that have something to be shown with."""
        assert self._shown is not None, "open() comes first"
        return usable(dataset, self._shown.missing(dataset), self._shown.rule)

    def reader(self) -> ConditionReader:
        """Of what samples are shown with, after `build_module`."""
        assert self._conditioner is not None and self._shown is not None
        return self._shown.reader(self._conditioner, self.config.seed)

    def frozen(self) -> AnyConditioner | None:
        """The conditioner, if another module may use it too; None: it is trained along."""
        assert self._conditioner is not None
        return None if self._conditioner.trains else self._conditioner

    def built(self, module: FlowModule) -> None:
        """Remember the conditioner; UserError if its tokens do not fit the model."""
        self._conditioner = module.conditioner
        have, want = self.config.model.condition_channels, module.conditioner.channels
        if have != want:
            key = "model.condition_channels"
            raise UserError(f"{key}: is {have}, but the encoder has {want}; set it to {want}")

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

    @property
    def silent_loss(self) -> float:
        """The loss of a model that says nothing: x0 and ε have unit variance each."""
        return 2.0

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """A loss well above that of a model that says nothing."""
        loss, silent = averages["velocity"], self.silent_loss
        if loss <= 1.5 * silent:
            return []
        line = f"the loss is {loss:.3g} on average; a model that says nothing has {silent:.3g}"
        return [f"{line}. Lower train.learning_rate"]

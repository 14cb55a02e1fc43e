"""Training a structure DiT: rectified flow on a dense grid, given a picture or a caption.

    L = mean over cells and channels of (v(x_t, t, c) − (ε − x0))²,   x_t = (1 − t)·x0 + t·ε

x0 is what a frozen structure VAE says of a shape's occupancy, normalised by measured statistics, or
the occupancy itself. It is encoded where the module is, a batch at once. Each sample has its own
time and noise, and forgets its condition with some probability (classifier-free guidance). Every
draw is keyed by seed, step and place in the global batch.
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
from threed_gen.flow.path import Draw, draw_noise, interpolate, velocity_target
from threed_gen.flow.times import draw_times
from threed_gen.generation.structure import StructureSpace, as_grid, as_rows
from threed_gen.models.structure_dit import StructureDiT
from threed_gen.randomness import generator
from threed_gen.training.load_structure import (
    AnyConditioner,
    LoadedStructureVAE,
    read_space,
    vae_of,
)
from threed_gen.training.run_config import RunConfig, StructureDiTRun
from threed_gen.training.tasks.base import ShapeResult, StepLoss
from threed_gen.training.tasks.latent_sources import SOURCES, usable
from threed_gen.training.tasks.shown import Shown, conditioner_of
from threed_gen.training.tasks.structure_samples import (
    EqualDataset,
    OccupancyBatch,
    OccupancySamples,
)
from threed_gen.training.tasks.structure_sources import remember

TERMS: tuple[str, ...] = ("velocity",)
WATCHED: tuple[str, ...] = ("time", "dropped", "condition_tokens")


class StructureDiTModule(nn.Module):
    """The trained module: look at what is shown, go to a time of the path, compare velocities."""

    def __init__(
        self, config: StructureDiTRun, space: StructureSpace,
        conditioner: AnyConditioner | None = None,
    ) -> None:  # fmt: skip
        """`conditioner`: one that is frozen and already loaded; None builds what config says."""
        super().__init__()
        self.model = StructureDiT(config.model)
        self.conditioner = conditioner or conditioner_of(config.condition)
        self.config = config
        self.space = space  # no submodule: its VAE is frozen, neither trained nor saved

    def forward(self, batch: OccupancyBatch, step: int) -> StepLoss:
        config, device = self.config, batch.occupancy.device
        draw, positions = partial(generator, config.seed, step), batch.positions
        x0 = as_rows(self.x0(batch, draw))  # [B·g³, C]
        lengths = [config.model.grid**3] * len(positions)
        t = draw_times(config.flow.times, draw, positions)
        dropped = draw_dropped(config.flow.condition_dropout, draw, positions)
        noise = draw_noise(draw, positions, lengths, x0.shape[1]).to(device, non_blocking=True)
        times = t.to(device, non_blocking=True)
        x_t = as_grid(interpolate(x0, noise, times, lengths), config.model.grid)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            condition = self.conditioner(batch.shown)
            kept = drop_condition(condition.feats, condition.seqlens, dropped)
            velocity = self.model(x_t, times, condition._replace(feats=kept))
        loss = flow_loss(as_rows(velocity), velocity_target(x0, noise), lengths)
        counts = torch.tensor(condition.seqlens, dtype=torch.float32)
        watched = torch.stack([t, dropped.float(), counts], dim=1)
        return StepLoss(loss, loss.detach()[:, None], watched.to(device, non_blocking=True))

    def x0(self, batch: OccupancyBatch, draw: Draw | None) -> Tensor:
        """The data end of the path, [B, C, g, g, g]; `draw` is used for draws of the posterior."""
        space, device, model = self.space, batch.occupancy.device, self.config.model
        noise = None
        if draw is not None and space.vae is not None and self.config.structure.draw == "sample":
            shape = (model.latent_channels, *[model.grid] * 3)
            drawn = [torch.randn(shape, generator=draw("latent", i)) for i in batch.positions]
            noise = torch.stack(drawn).to(device, non_blocking=True)
        return space.on(device).encode(batch.occupancy, noise)


class StructureDiTTask:
    """Everything the trainer asks about training a structure DiT."""

    term_names = TERMS
    watched_names = WATCHED
    watched_group = "flow"

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, StructureDiTRun), config.task
        self.config = config
        self._space: StructureSpace | None = None
        self._conditioner: AnyConditioner | None = None
        self._shown: Shown | None = None

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Remember the structure VAE, and measure its latents."""
        remember(self.config, self._vae, dataset, run)

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """Views or captions; samples that lack them are left out, and named."""
        self._space = read_space(self.config, run / SOURCES, self._vae)
        self._shown = Shown(self.config.condition, dataset)
        return self.usable(dataset)

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """The samples of a data set that have something to be shown with."""
        assert self._shown is not None, "open() comes first"
        return usable(dataset, self._shown.missing(dataset), self._shown.rule)

    def samples(self, dataset: SDFDataset) -> OccupancySamples:
        """Occupancy and what is shown with it; a token is one of the model."""
        assert self._conditioner is not None and self._shown is not None
        config = self.config
        return OccupancySamples(
            EqualDataset(dataset, config.grid**3 // config.model.tokens),
            self._shown.reader(self._conditioner, config.seed),
        )

    @cached_property
    def _vae(self) -> LoadedStructureVAE | None:
        """Loaded and hashed once, though `prepare` and `open` both want it."""
        return vae_of(self.config)

    def build_module(self) -> nn.Module:
        """A fresh module, its weights drawn from `init_seed`, or else from the run's seed."""
        config = self.config
        assert self._space is not None, "open() comes first"
        torch.manual_seed(config.seed if config.init_seed is None else config.init_seed)
        module = StructureDiTModule(config, self._space)
        self._conditioner = module.conditioner
        have, want = config.model.condition_channels, module.conditioner.channels
        if have != want:
            key = "model.condition_channels"
            raise UserError(f"{key}: is {have}, but the encoder has {want}; set it to {want}")
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
        """A loss that a model which says nothing would have: that of x0 and ε together."""
        loss, silent = averages["velocity"], 1 + self.config.structure.scale**2
        if self._space is not None and self._space.vae is not None:
            silent = 2.0  # normalised latents have unit variance
        if loss <= 1.5 * silent:
            return []
        line = f"the loss is {loss:.3g} on average; a model that says nothing has {silent:.3g}"
        return [f"{line}. Lower train.learning_rate"]

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Loss at fixed noise and times, and samples, of fixed shapes with the averaged weights."""
        from threed_gen.training.validate_structure import validate_structure_dit

        conditioner, space = self._conditioner, self._space
        assert conditioner is not None and space is not None
        module = StructureDiTModule(
            self.config, space, None if conditioner.trains else conditioner
        )  # fmt: skip
        module.load_state_dict(weights)
        return validate_structure_dit(
            module.to(device).eval(), self.samples(dataset), self.config, indices, device
        )

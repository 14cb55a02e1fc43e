"""What the tasks of autoencoders share: no condition, watched latents, signs of trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from threed_gen.data.dataset import SDFDataset

WATCHED: tuple[str, ...] = ("latent_mean", "latent_std", "posterior_std", "active_channels")
ACTIVE = 0.01  # nats of KL, from which a channel counts as active


class AutoencoderTask:
    """The answers to the trainer that do not depend on what is encoded."""

    watched_names = WATCHED
    watched_group = "latent"

    def prepare(self, dataset: SDFDataset, run: Path) -> None:
        """Nothing but the samples is needed."""

    def open(self, dataset: SDFDataset, run: Path) -> SDFDataset:
        """All of them can be used."""
        return dataset

    def usable(self, dataset: SDFDataset) -> SDFDataset:
        """All of them."""
        return dataset

    def weights_of(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`model.encoder…` → `encoder…`."""
        return {name.removeprefix("model."): tensor for name, tensor in state.items()}

    def summary(self, loss: Tensor, watched: Tensor) -> dict[str, Any]:
        """Nothing beyond the terms."""
        return {}

    def score(self, mean: dict[str, Any]) -> float | None:
        """Mean IoU."""
        iou = mean.get("iou")
        return None if iou is None else float(iou)

    def warnings(self, averages: dict[str, float]) -> list[str]:
        """Posterior collapse and its opposite, in words."""
        lines = []
        if averages["active_channels"] < 1 and averages["posterior_std"] > 0.9:
            lines.append(
                f"the latents carry nothing (posterior collapse): every channel's KL is below "
                f"{ACTIVE} nats. Lower loss.kl or train.learning_rate"
            )
        if averages["latent_std"] > 100 or averages["kl"] > 1000:
            lines.append(
                f"the latents grow without bound (std {averages['latent_std']:.3g}, KL "
                f"{averages['kl']:.3g}). Raise loss.kl or lower train.learning_rate"
            )
        return lines

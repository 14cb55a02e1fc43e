"""Training a structure VAE: its loss, watched statistics, and validation.

    L = λ_bce·mean BCE(ŷ, y) + λ_dice·(1 − (2·Σ p·y + 1) / (Σ p + Σ y + 1)) + λ_KL·mean KL

y in {0, 1} says which cells of a sample exist, ŷ are the decoder's logits and p = sigmoid(ŷ). Few
cells exist (some 4 % at 64³), which is what Dice is for. Direct3D-S2 does not publish the loss of
its dense VAE; TRELLIS, whose design it has, takes Dice and KL. Each mean runs over one sample, the
trainer then averages over the samples of the global batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.data.dataset import SDFDataset
from threed_gen.models.structure_vae import DensePosterior, StructureVAE
from threed_gen.randomness import generator
from threed_gen.training.run_config import RunConfig, StructureLossConfig, StructureVAERun
from threed_gen.training.tasks.autoencoder import ACTIVE, AutoencoderTask
from threed_gen.training.tasks.base import ShapeResult, StepLoss, seed_weights
from threed_gen.training.tasks.structure_samples import (
    EqualDataset,
    OccupancyBatch,
    OccupancySamples,
)

TERMS: tuple[str, ...] = ("bce", "dice", "kl")


class StructureVAEModule(nn.Module):
    """The trained module: encode, draw, decode, and compare."""

    def __init__(self, config: StructureVAERun) -> None:
        super().__init__()
        self.model = StructureVAE(config.model)
        self.config = config

    def forward(self, batch: OccupancyBatch, step: int) -> StepLoss:
        config, device = self.config, batch.occupancy.device
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            posterior = self.model.encode(batch.occupancy)
            noise = torch.stack(
                [
                    torch.randn(
                        posterior.mean.shape[1:],
                        generator=generator(config.seed, step, "posterior", position),
                    )
                    for position in batch.positions
                ]
            ).to(device, non_blocking=True)
            logits = self.model.decode(posterior.sample(noise))
        terms = loss_terms(logits, batch.occupancy, posterior)
        return StepLoss(
            weighted=terms @ loss_weights(config.loss).to(device),
            terms=terms.detach(),
            watched=_statistics(posterior.mean.detach(), posterior),
        )


def loss_weights(config: StructureLossConfig) -> Tensor:
    """[3] in the order of `TERMS`."""
    return torch.tensor([config.bce, config.dice, config.kl])


def loss_terms(logits: Tensor, occupancy: Tensor, posterior: DensePosterior) -> Tensor:
    """The unweighted terms of each sample.

    Args:
        logits: [B, 1, G, G, G].
        occupancy: the same shape, in {0, 1}.

    Returns:
        [B, 3] in the order of `TERMS`, float32.
    """
    assert logits.shape == occupancy.shape, (logits.shape, occupancy.shape)
    said, truth = logits.float().flatten(1), occupancy.float().flatten(1)  # [B, G³]
    bce = F.binary_cross_entropy_with_logits(said, truth, reduction="none").mean(1)
    chance = torch.sigmoid(said)
    shared, both = (chance * truth).sum(1), chance.sum(1) + truth.sum(1)
    dice = 1 - (2 * shared + 1) / (both + 1)
    return torch.stack([bce, dice, posterior.kl_per_sample()], dim=1)


def _statistics(mean: Tensor, posterior: DensePosterior) -> Tensor:
    """[B, 4] in the order of `WATCHED`; a channel is active when its KL passes ACTIVE."""
    flat = mean.flatten(1)
    channels = posterior.kl().detach().flatten(2).mean(2)  # [B, L]
    active = (channels > ACTIVE).float().sum(1)
    spread = posterior.std().detach().flatten(1).mean(1)
    return torch.stack([flat.mean(1), flat.std(1, unbiased=False), spread, active], dim=1)


class StructureVAETask(AutoencoderTask):
    """Everything the trainer asks about training a structure VAE."""

    term_names = TERMS

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, StructureVAERun), config.task
        self.config = config

    def samples(self, dataset: SDFDataset) -> OccupancySamples:
        """Occupancy; a token is a latent cell."""
        return OccupancySamples(EqualDataset(dataset, self.config.model.factor**3))

    def build_module(self) -> nn.Module:
        """A fresh module, its weights drawn from `init_seed`, or else from the run's seed."""
        seed_weights(self.config)
        return StructureVAEModule(self.config)

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Reconstruct fixed shapes with the averaged weights."""
        from threed_gen.training.validate_structure import validate_structure_vae

        model = StructureVAE(self.config.model)
        model.load_state_dict(weights)
        return validate_structure_vae(
            model.to(device).eval(), self.samples(dataset), self.config, indices, device
        )

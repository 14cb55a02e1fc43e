"""The SS-VAE's loss, watched statistics, and validation (Direct3D-S2, section 3.2).

    L = λ_in·mean_in (s−ŝ)² + λ_ext·mean_ext (s−ŝ)² + λ_sharp·mean_sharp (s−ŝ)² + λ_KL·KL

Each mean runs over one sample's voxels; the trainer then averages over the samples of the global
batch. `in` are the band voxels, `ext` all other decoded voxels (targets ±1), `sharp` the band
voxels near sharp edges; an empty set contributes 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threed_gen.data.batch import Batch, collate
from threed_gen.data.dataset import SDFDataset
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.ss_vae import SSVAE, prepare_grid
from threed_gen.randomness import sample_noise
from threed_gen.training.run_config import LossConfig, RunConfig, SSVAERun
from threed_gen.training.tasks.autoencoder import ACTIVE, AutoencoderTask
from threed_gen.training.tasks.base import ShapeResult, StepLoss, seed_weights

TERMS: tuple[str, ...] = ("in", "ext", "sharp", "kl")


@dataclass(frozen=True)
class SDFSamples:
    """Truncated fields, packed for the SS-VAE."""

    dataset: SDFDataset
    window: int  # of the model's attention, for its index tables

    def load(self, index: int, resolution: int, step: int, position: int) -> SparseSDF:
        """The same field whenever it is asked for."""
        return self.dataset.load(index, resolution)

    def pack(self, items: list[SparseSDF], names: list[str], positions: list[int]) -> Batch:
        """All index tables are built here, in a loader's worker where there is one."""
        batch = collate(items, names, positions)
        prepare_grid(batch.inputs.grid, self.window)
        return batch

    def padding(self, resolution: int) -> Batch:
        """One brick that stands in where a rank has no sample left; its loss is weighted by 0."""
        return collate([one_brick(resolution)], is_padding=True)


def one_brick(resolution: int) -> SparseSDF:
    """The smallest field there is: one brick, all of it in the band."""
    values = np.linspace(-1, 1, 512, dtype=np.float32)[None]
    everywhere = np.ones((1, 512), dtype=bool)
    return SparseSDF(
        np.zeros((1, 3), np.int32), values, everywhere, ~everywhere, resolution,
        4 / resolution, 1.0, (0.0, 0.0, 0.0),
    )  # fmt: skip


class SSVAEModule(nn.Module):
    """The trained module: encode, draw, decode, and compare."""

    def __init__(self, config: SSVAERun) -> None:
        super().__init__()
        self.model = SSVAE(config.model)
        self.config = config

    def forward(self, batch: Batch, step: int) -> StepLoss:
        device = batch.target.device
        bf16 = self.config.train.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            posterior = self.model.encode(batch.inputs)
            mean, logvar = posterior.mean.feats, posterior.logvar.feats  # [L, C], fp32
            noise = sample_noise(
                self.config.seed, step, "posterior", batch.positions, batch.tokens, mean.shape[1]
            ).to(device, non_blocking=True)
            decoded = self.model.decode(posterior.sample(noise)).feats.float().squeeze(1)  # [512·L]
        terms = loss_terms(decoded, batch, mean, logvar)
        return StepLoss(
            weighted=terms @ loss_weights(self.config.loss).to(device),
            terms=terms.detach(),
            watched=_statistics(mean.detach(), logvar.detach(), batch.tokens),
        )


def loss_weights(config: LossConfig) -> Tensor:
    """[4] in the order of `TERMS`."""
    return torch.tensor([config.inside_band, config.extra, config.sharp, config.kl])


def loss_terms(decoded: Tensor, batch: Batch, mean: Tensor, logvar: Tensor) -> Tensor:
    """The unweighted terms of each sample.

    Args:
        decoded: ŝ [512·L] in the order of `batch.target`.
        mean, logvar: posterior [L, C].

    Returns:
        [B, 4] in the order of `TERMS`, float32.
    """
    assert decoded.shape == batch.target.shape, (decoded.shape, batch.target.shape)
    squared = (decoded - batch.target).square()
    divergence = _divergence(mean, logvar)
    voxels = [512 * count for count in batch.tokens]
    rows = []
    # A handful of samples per micro-batch: a loop over contiguous slices needs no atomics (so it
    # is deterministic on the GPU too) and reads no size back from the device.
    for error, band, sharp, kl in zip(
        squared.split(voxels), batch.band.split(voxels), batch.sharp.split(voxels),
        divergence.split(batch.tokens), strict=True,
    ):  # fmt: skip
        rows.append(
            torch.stack(
                [_mean_where(error, band), _mean_where(error, ~band), _mean_where(error, sharp),
                 kl.mean()]
            )
        )  # fmt: skip
    return torch.stack(rows)


def _divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL to the standard normal of each latent element, ½(μ² + σ² − 1 − log σ²). [L, C]."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over `mask`; 0 (with zero gradient) when the mask is empty, without a host sync."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _statistics(mean: Tensor, logvar: Tensor, tokens: list[int]) -> Tensor:
    """[B, 4] in the order of `WATCHED`; a channel is active when its KL passes ACTIVE."""
    divergence = _divergence(mean, logvar)
    rows = []
    for m, v, kl in zip(
        mean.split(tokens), logvar.split(tokens), divergence.split(tokens), strict=True
    ):
        active = (kl.mean(0) > ACTIVE).float().sum()
        std = m.std(unbiased=False)
        rows.append(torch.stack([m.mean(), std, torch.exp(0.5 * v).mean(), active]))
    return torch.stack(rows)


class SSVAETask(AutoencoderTask):
    """Everything the trainer asks about training an SS-VAE."""

    term_names = TERMS

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config, SSVAERun), config.task
        self.config = config

    def samples(self, dataset: SDFDataset) -> SDFSamples:
        """Fields with the tables of this model."""
        return SDFSamples(dataset, self.config.model.window)

    def build_module(self) -> nn.Module:
        """A fresh module, its weights drawn from `init_seed`, or else from the run's seed."""
        seed_weights(self.config)
        return SSVAEModule(self.config)

    def validate(
        self, weights: dict[str, Tensor], dataset: SDFDataset, indices: list[int], device: Any
    ) -> list[ShapeResult]:
        """Reconstruct fixed shapes with the averaged weights."""
        from threed_gen.training.validate import validate_shapes

        model = SSVAE(self.config.model)
        model.load_state_dict(weights)
        return validate_shapes(model.to(device).eval(), dataset, indices, self.config, device)

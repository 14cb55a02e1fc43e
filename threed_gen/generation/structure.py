"""Which latent cells a shape has: from noise and a condition to their coordinates.

The structure DiT walks a small dense grid from noise to data. What it denoises, the space, is
either the normalised latents of a structure VAE or occupancy itself, as ±scale; `StructureSpace`
leads there and back and is what training encodes with, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.flow.guidance import Pair
from threed_gen.flow.path import Draw, Velocity, draw_noise
from threed_gen.flow.sampler import SamplerConfig, sample
from threed_gen.generation.latents import joined
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.structure_dit import StructureDiT
from threed_gen.models.structure_vae import DensePosterior, StructureVAE

C = TypeVar("C")


@dataclass(frozen=True)
class StructureSpace:
    """Between occupancy [B, 1, G, G, G] and what the structure DiT denoises [B, C, g, g, g]."""

    vae: StructureVAE | None = None  # frozen, in eval mode; None: occupancy as ±scale
    statistics: LatentStatistics | None = None  # of the VAE's latents; None: they stay as they are
    scale: float = 1.0  # without a VAE

    def on(self, device: torch.device) -> StructureSpace:
        """Itself, with the VAE on `device`."""
        if self.vae is not None and next(self.vae.parameters()).device != device:
            self.vae.to(device)
        return self

    @torch.no_grad()
    def posterior(self, occupancy: Tensor) -> DensePosterior:
        """What the VAE says of cells in {0, 1}, in fp32 whatever is around it."""
        assert self.vae is not None
        with torch.autocast(occupancy.device.type, enabled=False):
            return self.vae.encode(occupancy)

    def encode(self, occupancy: Tensor, noise: Tensor | None = None) -> Tensor:
        """x0 of cells in {0, 1}; float32, without gradient.

        noise: standard normal, of the latents' shape, for a draw from the posterior; None takes
        its mean.
        """
        if self.vae is None:
            return (occupancy.float() * 2 - 1) * self.scale
        posterior = self.posterior(occupancy)
        z = posterior.mean if noise is None else posterior.sample(noise)
        return z if self.statistics is None else _rescaled(z, self.statistics, forward=True)

    @torch.no_grad()
    def probability(self, x0: Tensor) -> Tensor:
        """How likely each cell exists, [B, 1, G, G, G] in [0, 1]; NaN where x0 leads nowhere."""
        if self.vae is None:
            return (x0.float() / self.scale + 1).div(2).clamp(0, 1)
        z = x0 if self.statistics is None else _rescaled(x0, self.statistics, forward=False)
        return torch.sigmoid(self.vae.decode(z))


@dataclass(frozen=True)
class Structure:
    """Everything that predicts cells."""

    dit: StructureDiT  # in eval mode
    vae: StructureVAE | None  # None: the DiT denoises occupancy itself
    grid: int  # G, latent cells per axis
    threshold: float  # of a cell's probability; released: 0.1
    statistics: LatentStatistics | None = None  # of the VAE's latents
    scale: float = 1.0  # of occupancy, without a VAE

    @property
    def space(self) -> StructureSpace:
        """What the DiT denoises."""
        return StructureSpace(self.vae, self.statistics, self.scale)


def sample_structure(
    structure: Structure, condition: PackedTokens, sampler: SamplerConfig, draw: Draw,
    indices: Sequence[int] | None = None, on_step: Callable[[], object] | None = None,
) -> list[NDArray[np.int32]]:  # fmt: skip
    """The latent cells of each sample, by `structure` on the condition's device.

    Args:
        condition: tokens of B samples; guidance leads away from the same tokens, all zero.
        draw: of the noise; a sample's result depends on its own draw alone, not on its batch.
        indices: under which each sample draws; None: 0, 1, …
        on_step: called after every step of the sampler.

    Returns:
        For each sample int32 [T, 3] in [0, G), lexicographic. May be empty: the caller says so.
    """
    x0 = sample_space(structure.dit, condition, sampler, draw, indices, on_step)
    return cells_of(structure.space.probability(x0), structure.threshold)


def sample_space(
    dit: StructureDiT, condition: PackedTokens, sampler: SamplerConfig, draw: Draw,
    indices: Sequence[int] | None = None, on_step: Callable[[], object] | None = None,
) -> Tensor:  # fmt: skip
    """x0 [B, C, g, g, g] of each sample, float32; arguments as `sample_structure`."""
    batch = len(condition.seqlens)
    lengths = [dit.config.grid**3] * batch
    chosen = range(batch) if indices is None else indices
    noise = draw_noise(draw, chosen, lengths, dit.config.latent_channels)
    null = condition._replace(feats=torch.zeros_like(condition.feats))
    velocity = on_dense_grid(dit, dit.config.grid)
    pair = Pair(velocity, joined(condition, null)) if sampler.guidance.one_pass else None
    device = condition.feats.device
    rows = sample(velocity, noise.to(device), batch, condition, null, sampler, pair, on_step)
    return as_grid(rows, dit.config.grid)


def on_dense_grid(model: Callable[[Tensor, Tensor, C], Tensor], grid: int) -> Velocity[C]:
    """A model of dense grids as a velocity of packed rows [B·g³, C], as `flow` speaks of them."""
    return lambda x, t, condition: as_rows(model(as_grid(x, grid), t, condition))


def as_rows(x: Tensor) -> Tensor:
    """[B, C, g, g, g] -> [B·g³, C], z fastest."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1)


def as_grid(rows: Tensor, grid: int) -> Tensor:
    """The inverse of `as_rows`."""
    dense = rows.unflatten(0, (-1, grid, grid, grid))  # [B, g, g, g, C]
    return dense.movedim(-1, 1).contiguous()


def occupancy_of(cells: Sequence[NDArray[np.integer]], grid: int) -> Tensor:
    """Lists of cells [T, 3] in [0, grid) as one dense bool [B, 1, grid, grid, grid]."""
    dense = np.zeros((len(cells), 1, grid, grid, grid), dtype=bool)
    for number, xyz in enumerate(cells):
        x, y, z = np.asarray(xyz, dtype=np.int64).reshape(-1, 3).T
        dense[number, 0, x, y, z] = True
    return torch.from_numpy(dense)


def cells_of(probability: Tensor, threshold: float) -> list[NDArray[np.int32]]:
    """The cells [T, 3] of each sample that reach the threshold, lexicographic; NaN never does."""
    assert probability.ndim == 5 and probability.shape[1] == 1
    reached = (probability[:, 0] >= threshold).cpu().numpy()  # [B, G, G, G]
    return [np.argwhere(one).astype(np.int32) for one in reached]


def _rescaled(x: Tensor, statistics: LatentStatistics, forward: bool) -> Tensor:
    """Latents of each channel to mean 0 and variance 1, or back. [B, C, …], float32."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, std = (
        torch.from_numpy(part).to(x.device).view(shape)
        for part in (statistics.mean, statistics.std)
    )
    wide = x.double()
    return ((wide - mean) / std if forward else wide * std + mean).float()

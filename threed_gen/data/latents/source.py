"""Where training takes latents from, and what the flow sees of them: x0 = (z - mean) / std.

A source reads latents from a folder (`reader.CachedLatents`) or has a frozen SS-VAE say them anew
(`training.encode.EncodedLatents`); in fp32 both give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.latent import Latent
from threed_gen.data.latents.statistics import LatentStatistics


class LatentSource(Protocol):
    """Latents of the samples of one `SDFDataset`, by their numbers there."""

    @property
    def statistics(self) -> LatentStatistics:
        """For x0 = (z - mean) / std."""
        ...

    @property
    def channels(self) -> int:
        """C."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """Samples that have no latent: id, and why."""
        ...

    def load(self, i: int, resolution: int) -> Latent:
        """The latent of sample i; UserError naming it if it is damaged or there is none."""
        ...

    def over(self, dataset: SDFDataset) -> LatentSource:
        """The same, with the same statistics, for another choice of the samples."""
        ...


def x0_of(
    latent: Latent, statistics: LatentStatistics, generator: torch.Generator | None = None
) -> Tensor:
    """The normalised latent of one sample, float32 [T, C] on the CPU.

    Args:
        generator: draws ε of z = mean + σ·ε, keyed by (seed, step, "latent", position in the
            global batch); None takes the posterior's mean.

    Raises:
        ValueError: statistics of another width, or a draw from a latent without logvar.
    """
    if latent.mean.shape[1] != statistics.channels:
        raise ValueError(f"{latent.mean.shape[1]} channels, statistics of {statistics.channels}")
    z = torch.from_numpy(latent.mean).double()  # [T, C]
    if generator is not None:
        if latent.logvar is None:
            raise ValueError("only the mode of this latent was stored; a draw needs its logvar")
        noise = torch.randn(latent.mean.shape, generator=generator)  # float32, as all draws here
        z = z + (0.5 * torch.from_numpy(latent.logvar).double()).exp() * noise.double()
    mean, std = torch.from_numpy(statistics.mean), torch.from_numpy(statistics.std)
    return ((z - mean) / std).float()


def denormalise(feats: Tensor, statistics: LatentStatistics) -> Tensor:
    """Latents z as the SS-VAE's decoder takes them, from normalised ones [T, C] on any device."""
    assert feats.shape[-1] == statistics.channels
    mean = torch.from_numpy(statistics.mean).to(feats.device)
    std = torch.from_numpy(statistics.std).to(feats.device)
    return (feats.double() * std + mean).to(feats.dtype)

"""The Gaussian that an encoder gives for every latent cell: sampling and KL divergence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from threed_gen.sparse.norm import sample_mean
from threed_gen.sparse.sparse_tensor import SparseTensor

LOGVAR_RANGE = (-30.0, 20.0)


class Posterior(NamedTuple):
    """A diagonal Gaussian per latent cell; mean and log-variance [N, L] share a grid, in fp32."""

    mean: SparseTensor
    logvar: SparseTensor

    @classmethod
    def from_moments(cls, moments: SparseTensor) -> Posterior:
        """Split [N, 2·L] into mean and log-variance, the latter clamped to [-30, 20]."""
        feats = moments.feats
        wide = feats if feats.dtype == torch.float64 else feats.float()
        mean, logvar = wide.chunk(2, dim=1)
        return cls(moments.replace(mean), moments.replace(logvar.clamp(*LOGVAR_RANGE)))

    def std(self) -> Tensor:
        """Standard deviation. [N, L]."""
        return torch.exp(0.5 * self.logvar.feats)

    def sample(self, noise: Tensor) -> SparseTensor:
        """mean + std · noise, for standard normal noise [N, L] that the caller has drawn."""
        assert noise.shape == self.mean.feats.shape
        return self.mean.replace(self.mean.feats + self.std() * noise)

    def kl(self) -> Tensor:
        """KL to the standard normal, ½(μ² + σ² - 1 - log σ²), mean over the channels. [N]."""
        mean, logvar = self.mean.feats, self.logvar.feats
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean(1)

    def kl_per_sample(self) -> Tensor:
        """Mean of `kl` over each sample's latent cells. [B]."""
        return sample_mean(self.kl()[:, None], self.mean.grid)[:, 0]

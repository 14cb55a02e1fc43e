"""Structure VAE: which latent cells of a shape exist, as a dense grid, to a small dense latent.

Occupancy in {0, 1} of G³ cells goes in (G = 64 in the release, the latent cells of 512³) and is
seen as ±1. Two halvings lead to G/4 cells per axis with a small Gaussian each; the decoder gives
the logit of every cell. Purely convolutional, so any grid whose sides 4 divides is taken, cubic or
not.

Released as Direct3D-S2's dense VAE (its code, not its paper, has it; the design is TRELLIS', arXiv
2412.01506 §3.2 and appendix): 193.0 M parameters, 59.3 M to encode and 133.7 M to decode. Names of
the state dict are the released ones, `encoder|decoder.{input_layer, blocks.i.{norm1, norm2, conv1,
conv2 | conv}, middle_block.i, out_layer.{0, 2}}`. Where these leave the order open it is TRELLIS':
`blocks` counts through all levels, the residual blocks of a level first and then the change of
resolution; the middle blocks come after the encoder's `blocks` and before the decoder's; moments
are mean first, then log-variance. `skip_connection` occurs only where widths differ within a
block, which is nowhere in this network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from threed_gen.config import Config
from threed_gen.models.layers.dense_resolution import (
    ChannelNorm,
    Double3d,
    Halve3d,
    ResidualBlock3d,
)
from threed_gen.models.posterior import LOGVAR_RANGE


class StructureVAEConfig(Config):
    """Sizes of the structure VAE; the defaults are the released model's (193.0 M parameters)."""

    encoder_widths: tuple[int, ...] = (32, 128, 512)  # one per resolution, from fine to coarse
    decoder_widths: tuple[int, ...] = (512, 128, 64)  # from coarse to fine
    latent_channels: int = 8
    encoder_blocks: int = 2  # residual blocks per resolution
    encoder_middle_blocks: int = 2
    decoder_blocks: int = 4
    decoder_middle_blocks: int = 4
    initial_logvar: float = 0.0  # added to the log-variance of fresh weights; released: 0
    checkpoint: bool = False  # recompute activations in backward

    @model_validator(mode="after")
    def _sizes_fit(self) -> StructureVAEConfig:
        for name in ("encoder_widths", "decoder_widths"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name} needs positive widths, one per resolution")
        if len(self.encoder_widths) != len(self.decoder_widths):
            raise ValueError("encoder_widths and decoder_widths need equally many resolutions")
        if self.latent_channels < 1:
            raise ValueError("latent_channels must be at least 1")
        for name in ("encoder_blocks", "encoder_middle_blocks", "decoder_blocks",
                     "decoder_middle_blocks"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        return self

    @property
    def factor(self) -> int:
        """Cells per latent cell, along an axis; 4 in the release."""
        return 2 ** (len(self.encoder_widths) - 1)


class DensePosterior(NamedTuple):
    """A diagonal Gaussian per dense latent cell; mean and log-variance [B, L, X, Y, Z], fp32."""

    mean: Tensor
    logvar: Tensor

    def std(self) -> Tensor:
        """Standard deviation, [B, L, X, Y, Z]."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std · noise, for standard normal noise of the same shape, drawn by the caller."""
        assert noise.shape == self.mean.shape
        return self.mean + self.std() * noise

    def kl(self) -> Tensor:
        """KL to the standard normal of every number, ½(μ² + σ² − 1 − log σ²). [B, L, X, Y, Z]."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)

    def kl_per_sample(self) -> Tensor:
        """Mean of `kl` over a sample's channels and cells. [B]."""
        return self.kl().flatten(1).mean(1)


class StructureVAE(nn.Module):
    """Encoder and decoder; parameter names are those of the released checkpoints."""

    def __init__(self, config: StructureVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, occupancy: Tensor, noise: Tensor) -> tuple[Tensor, DensePosterior]:
        """Encode, sample with standard normal noise of the latent's shape, decode to logits."""
        posterior = self.encode(occupancy)
        return self.decode(posterior.sample(noise)), posterior

    def encode(self, occupancy: Tensor) -> DensePosterior:
        """Posterior [B, L, X/4, Y/4, Z/4] of occupancy [B, 1, X, Y, Z] in {0, 1} (any dtype).

        Raises ValueError for another number of channels, or sides that 4 does not divide.
        """
        factor = self.config.factor
        if occupancy.ndim != 5 or occupancy.shape[1] != 1:
            raise ValueError(f"occupancy: got {list(occupancy.shape)}, it must be [B, 1, X, Y, Z]")
        if any(side % factor for side in occupancy.shape[2:]):
            sides = list(occupancy.shape[2:])
            raise ValueError(f"occupancy: sides {sides} must be multiples of {factor}")
        moments: Tensor = self.encoder(occupancy.to(_dtype(self)) * 2 - 1)
        wide = moments if moments.dtype == torch.float64 else moments.float()
        mean, logvar = wide.chunk(2, dim=1)
        return DensePosterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, z: Tensor) -> Tensor:
        """Logits [B, 1, 4·X, 4·Y, 4·Z], fp32 or wider, of z [B, L, X, Y, Z]."""
        if z.ndim != 5 or z.shape[1] != self.config.latent_channels:
            channels = self.config.latent_channels
            raise ValueError(f"z: got {list(z.shape)}, it must be [B, {channels}, X, Y, Z]")
        logits: Tensor = self.decoder(z.to(_dtype(self)))
        return logits if logits.dtype == torch.float64 else logits.float()


class Encoder(nn.Module):
    """±1 [B, 1, X, Y, Z] -> moments [B, 2·L, X/4, Y/4, Z/4]."""

    def __init__(self, config: StructureVAEConfig) -> None:
        super().__init__()
        widths, depth = config.encoder_widths, config.encoder_blocks
        self.recompute = config.checkpoint
        self.input_layer = nn.Conv3d(1, widths[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            blocks += [ResidualBlock3d(width) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.append(Halve3d(width, widths[i + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.middle_block = _middle(widths[-1], config.encoder_middle_blocks)
        last = nn.Conv3d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.out_layer = nn.Sequential(ChannelNorm(widths[-1]), nn.SiLU(), last)
        assert last.bias is not None
        with torch.no_grad():
            last.bias[config.latent_channels :] += config.initial_logvar

    def forward(self, x: Tensor) -> Tensor:
        h = _run([*self.blocks, *self.middle_block], self.input_layer(x), self.recompute)
        out: Tensor = self.out_layer(h)
        return out


class Decoder(nn.Module):
    """z [B, L, X, Y, Z] -> logits [B, 1, 4·X, 4·Y, 4·Z]."""

    def __init__(self, config: StructureVAEConfig) -> None:
        super().__init__()
        widths, depth = config.decoder_widths, config.decoder_blocks
        self.recompute = config.checkpoint
        self.input_layer = nn.Conv3d(config.latent_channels, widths[0], 3, padding=1)
        self.middle_block = _middle(widths[0], config.decoder_middle_blocks)
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            blocks += [ResidualBlock3d(width) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.append(Double3d(width, widths[i + 1]))
        self.blocks = nn.ModuleList(blocks)
        last = nn.Conv3d(widths[-1], 1, 3, padding=1)
        self.out_layer = nn.Sequential(ChannelNorm(widths[-1]), nn.SiLU(), last)

    def forward(self, z: Tensor) -> Tensor:
        h = _run([*self.middle_block, *self.blocks], self.input_layer(z), self.recompute)
        out: Tensor = self.out_layer(h)
        return out


def _middle(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock3d(width) for _ in range(depth)))


def _run(blocks: Iterable[nn.Module], h: Tensor, recompute: bool) -> Tensor:
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            h = checkpoint(block, h, use_reentrant=False, preserve_rng_state=False)
        else:
            h = block(h)
    return h


def _dtype(module: nn.Module) -> torch.dtype:
    """Of the weights; autocast, when it is on, decides after this."""
    return next(module.parameters()).dtype

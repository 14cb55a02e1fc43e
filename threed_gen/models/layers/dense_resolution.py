"""Blocks of a dense 3-D convolutional network: norm over channels, residual, halve, double.

Features are [B, C, X, Y, Z]. Parameter names are those of the released structure VAE, whose blocks
are those of TRELLIS' (arXiv 2412.01506, "sparse structure" VAE).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5
CHILDREN = 8  # cells of the finer grid in one of the coarser


class ChannelNorm(nn.LayerNorm):
    """Layer norm of every voxel over its channels, with gain and bias [C].

    Statistics in fp32 or wider, output in the input's dtype.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        last = wide.movedim(1, -1)  # [B, X, Y, Z, C]
        out = F.layer_norm(last, self.normalized_shape, weight, bias, self.eps)
        return out.movedim(-1, 1).to(x.dtype)


class ResidualBlock3d(nn.Module):
    """conv2(SiLU(norm2(conv1(SiLU(norm1(x)))))) + skip(x); conv2 starts at zero.

    skip_connection is a 1³ convolution where the widths differ, else x itself.
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        out = channels if out_channels is None else out_channels
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(out)
        self.conv1 = nn.Conv3d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv3d(out, out, 3, padding=1)
        self.skip_connection = nn.Identity() if out == channels else nn.Conv3d(channels, out, 1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + self.skip_connection(x)
        return out


class Halve3d(nn.Module):
    """A convolution of 2³ with stride 2: every coarse cell from its eight children alone."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Double3d(nn.Module):
    """A convolution of 3³ to eight times the channels, which then become the eight children."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, CHILDREN * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle_3d(self.conv(x))


def pixel_shuffle_3d(x: Tensor, factor: int = 2) -> Tensor:
    """Channels become finer cells: [B, C·f³, X, Y, Z] -> [B, C, f·X, f·Y, f·Z].

    out[b, c, f·x + i, f·y + j, f·z + k] = in[b, ((c·f + i)·f + j)·f + k, x, y, z]: the channel of
    the result is the slowest part of the channel of the input, then the offsets along x, y and z.
    """
    batch, wide, *sides = x.shape
    assert x.ndim == 5 and wide % factor**3 == 0, x.shape
    split = x.reshape(batch, wide // factor**3, factor, factor, factor, *sides)
    paired = split.permute(0, 1, 5, 2, 6, 3, 7, 4)  # [B, C, X, f, Y, f, Z, f]
    return paired.reshape(batch, wide // factor**3, *(factor * side for side in sides))

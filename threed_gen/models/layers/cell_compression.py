"""One vector per compression cell from the keys, or the values, of the cell's tokens.

Two modules, both from the official code of Direct3D-S2, and both keep the number of channels.
`LinearCompression` ("v1" there) is in the released models 1.1, `ResidualCompression` ("v2") in the
released models 1.0. Module names are those of the checkpoints. Convolutions run over the occupied
cells only and never grow that set.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ssa import SSAPlan, segment_mean
from threed_gen.models.layers.resolution import Conv, Pointwise
from threed_gen.sparse.cells import cell_grid
from threed_gen.sparse.conv import Backend
from threed_gen.sparse.norm import SampleGroupNorm
from threed_gen.sparse.pool import Pooling
from threed_gen.sparse.sparse_tensor import SparseTensor

Compression = Literal["linear", "residual"]
NORM_GROUPS = 32


class LinearCompression(nn.Module):
    """mean over the cell of SiLU(x · kernel + bias)."""

    def __init__(self, channels: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.act_layers = nn.Sequential(Pointwise(channels, channels), nn.SiLU())

    def forward(self, x: SparseTensor, plan: SSAPlan) -> Tensor:
        """Tokens [N, C] -> cells [M, C] in the plan's order."""
        return cell_mean(self.act_layers(x.feats), plan.cells.starts, self.pooling)


class ResidualCompression(nn.Module):
    """norm, SiLU, mean, conv, norm, SiLU, conv; plus the mean of the raw tokens.

    Norms are group norms with 32 groups (one per channel where there are fewer channels) over all
    tokens, then all cells, of a sample.
    """

    def __init__(
        self, channels: int, conv_backend: Backend = "auto", pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        groups = min(NORM_GROUPS, channels)
        self.act_layers = nn.ModuleList([SampleGroupNorm(groups, channels), nn.SiLU()])
        self.out_layers = nn.ModuleList(
            [
                Conv(channels, channels, conv_backend),
                SampleGroupNorm(groups, channels),
                nn.SiLU(),
                Conv(channels, channels, conv_backend),
            ]
        )

    def forward(self, x: SparseTensor, plan: SSAPlan) -> Tensor:
        """Tokens [N, C] -> cells [M, C] in the plan's order."""
        cells, starts = cell_grid(x.grid, plan), plan.cells.starts
        h = F.silu(self.act_layers[0](x).feats)
        h = self.out_layers[0](cells.enter(cell_mean(h, starts, self.pooling)))
        h = self.out_layers[1](h)
        h = self.out_layers[3](h.replace(F.silu(h.feats)))
        return cells.leave(h) + cell_mean(x.feats, starts, self.pooling)


def cell_mean(x: Tensor, starts: Tensor, pooling: Pooling) -> Tensor:
    """Mean of each cell's rows [N, C] -> [M, C]; "released": over one more than there are."""
    mean = segment_mean(x, starts)
    if pooling == "mean":
        return mean
    count = starts.diff()[:, None].to(torch.promote_types(x.dtype, torch.float32))
    return (mean * (count / (count + 1))).to(x.dtype)


def make_compression(
    kind: Compression, channels: int, conv_backend: Backend = "auto", pooling: Pooling = "mean"
) -> LinearCompression | ResidualCompression:
    """The compression module of that name. Raises ValueError for an unknown one."""
    if kind not in get_args(Compression):
        raise ValueError(f"compression: got {kind!r}, it must be one of {get_args(Compression)}")
    if kind == "linear":
        return LinearCompression(channels, pooling)
    return ResidualCompression(channels, conv_backend, pooling)

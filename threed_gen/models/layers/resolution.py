"""The convolutional blocks that halve and double the resolution of the SS-VAE.

Module names (`act_layers.0`, `out_layers.3.conv`, ...) are those of the released checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.sparse.conv import Backend, SubmanifoldConv3d
from threed_gen.sparse.norm import SampleGroupNorm
from threed_gen.sparse.pool import Pooling, mean_pool
from threed_gen.sparse.sparse_tensor import SparseTensor


class Conv(nn.Module):
    """A 3³ submanifold convolution under the released name `.conv`."""

    def __init__(self, in_channels: int, out_channels: int, backend: Backend) -> None:
        super().__init__()
        self.conv = SubmanifoldConv3d(in_channels, out_channels, backend=backend)

    def forward(self, x: SparseTensor, subdivided: bool = False) -> SparseTensor:
        out: SparseTensor = self.conv(x, subdivided=subdivided)
        return out


class PointwiseKernel(nn.Module):
    """A 1³ convolution: kernel [in, out] (a transposed linear weight) and bias [out]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = in_channels**-0.5
        nn.init.uniform_(self.kernel, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.t(), self.bias)


class Pointwise(nn.Module):
    """A 1³ convolution under the released name `.conv`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = PointwiseKernel(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class DownBlock(nn.Module):
    """norm, SiLU, pool, conv, norm, SiLU, conv; plus the pooled input through a 1³ convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, norm_groups: int, backend: Backend,
        pooling: Pooling = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        self.pooling: Pooling = pooling
        self.act_layers = nn.ModuleList([_norm(norm_groups, in_channels), nn.SiLU()])
        self.out_layers = nn.ModuleList(
            [
                Conv(in_channels, out_channels, backend),
                _norm(norm_groups, out_channels),
                nn.SiLU(),
                Conv(out_channels, out_channels, backend),
            ]
        )
        self.skip_connection = Pointwise(in_channels, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        h: SparseTensor = self.act_layers[0](x)
        h = mean_pool(h.replace(F.silu(h.feats)), self.pooling)
        h = self.out_layers[1](self.out_layers[0](h))
        h = self.out_layers[3](h.replace(F.silu(h.feats)))
        return h.replace(h.feats + self.skip_connection(mean_pool(x, self.pooling).feats))


class UpBlock(nn.Module):
    """conv, SiLU, copy to the eight children, conv, SiLU: always complete, nothing pruned."""

    def __init__(self, in_channels: int, out_channels: int, backend: Backend) -> None:
        super().__init__()
        self.act_layers = nn.ModuleList([Conv(in_channels, out_channels, backend)])
        self.out_layers = nn.ModuleList([Conv(out_channels, out_channels, backend)])

    def forward(self, x: SparseTensor) -> SparseTensor:
        h: SparseTensor = self.act_layers[0](x)
        h = self.out_layers[0](h.replace(F.silu(h.feats)), subdivided=True)
        return h.replace(F.silu(h.feats))


def _norm(groups: int, channels: int) -> SampleGroupNorm:
    return SampleGroupNorm(min(groups, channels), channels)

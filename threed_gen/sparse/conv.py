"""SubmanifoldConv3d: 3³ convolution whose output lives on exactly the input's voxels.

One front for three backends. `reference` is the definition in plain PyTorch; `torch` is our
gather-GEMM for CPU and GPU in any dtype; `spconv` uses the spconv package when it is installed.
`auto` takes `torch` and says so once: it is the only one that runs in bf16, is deterministic, and
has the folded form for subdivided voxels, in which the fine grid needs no neighbour map at all.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kernels.sparse_conv.plan import KERNEL_VOLUME, upsample_rows
from kernels.sparse_conv.reference import submanifold_conv_reference
from kernels.sparse_conv.submanifold import submanifold_conv, upsample_conv
from threed_gen.sparse.gather import gather_sum
from threed_gen.sparse.pool import subdivide
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.spconv_backend import spconv_conv
from threed_gen.sparse.voxel_grid import VoxelGrid

Backend = Literal["auto", "reference", "torch", "spconv"]
log = logging.getLogger(__name__)


class SubmanifoldConv3d(nn.Module):
    """out(p) = bias + sum_k x(p + offset_k) @ kernel[k], offset_k = (k%3-1, k//3%3-1, k//9-1).

    kernel: [27, in, out] and bias: [out], named and laid out as in the released checkpoints
    (torchsparse), and initialised as there: uniform within ±1/sqrt(27·in). That shrinks the signal
    by 3 or more per layer; `init_kaiming` keeps its size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        if backend not in get_args(Backend):
            raise ValueError(f"unknown convolution backend {backend!r}: {get_args(Backend)}")
        self.backend: Backend = backend
        self.kernel = nn.Parameter(torch.empty(KERNEL_VOLUME, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(KERNEL_VOLUME * self.kernel.shape[1])
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def init_kaiming(self) -> None:
        """He initialisation: kernel uniform with variance 2 / (27·in), bias zero."""
        bound = math.sqrt(6.0 / (KERNEL_VOLUME * self.kernel.shape[1]))
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: SparseTensor, subdivided: bool = False) -> SparseTensor:
        """The convolution of x, or with `subdivided` that of subdivide(x), on its children's grid.

        The latter is folded onto x's own voxels by the `torch` backend: several times faster.
        """
        if subdivided:
            return self._subdivided(x)
        backend = choose_backend(self.backend, x.feats.device)
        if backend == "spconv":
            return x.replace(spconv_conv(x.feats, self.kernel, self.bias, x.grid))
        conv = submanifold_conv if backend == "torch" else submanifold_conv_reference
        return x.replace(conv(x.feats, self.kernel, self.bias, x.grid.neighbour_rows()))

    def _subdivided(self, x: SparseTensor) -> SparseTensor:
        if choose_backend(self.backend, x.feats.device) != "torch":
            return self.forward(subdivide(x))
        forward, backward, canonical, child_major = folded_tables(x.grid)
        children = upsample_conv(x.feats, self.kernel, self.bias, forward, backward)
        return SparseTensor(gather_sum(children, canonical, child_major), x.grid.subdivided().fine)

    def extra_repr(self) -> str:
        return f"{self.kernel.shape[1]}, {self.kernel.shape[2]}, backend={self.backend!r}"


def folded_tables(grid: VoxelGrid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`upsample_rows` of a grid, and the way from child-major rows to canonical order and back."""

    def build() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        forward, backward = upsample_rows(grid.neighbour_rows())
        to_child_major = grid.subdivided().children.t().reshape(-1)  # canonical row of (c, m)
        to_canonical = torch.empty_like(to_child_major)
        to_canonical[to_child_major] = torch.arange(len(to_canonical), device=grid.device)
        return forward, backward, to_canonical, to_child_major

    return grid.cached("folded convolution", build)


@cache
def _announce(backend: str, device: str) -> None:
    log.info("sparse convolution on %s: backend %r", device, backend)


def choose_backend(backend: Backend, device: torch.device) -> Backend:
    """The backend that `auto` stands for on a device; the choice is logged once."""
    if backend != "auto":
        return backend
    if not torch.compiler.is_compiling():
        _announce("torch", device.type)
    return "torch"

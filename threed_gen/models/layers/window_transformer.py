"""Pre-norm transformer block whose attention stays inside shifted windows of voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.sparse.attention import window_attention
from threed_gen.sparse.sparse_tensor import SparseTensor


def plain_layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels without affine parameters, statistics in fp32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.layer_norm(wide, x.shape[-1:], eps=eps).to(x.dtype)


class WindowAttention(nn.Module):
    """Multi-head self-attention over windows of size³ cells, coordinates shifted by `shift`."""

    def __init__(self, channels: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"attention: {heads} heads do not divide {channels} channels")
        self.heads, self.size, self.shift = heads, size, shift
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        tokens, channels = x.feats.shape
        qkv = self.to_qkv(x.feats).view(tokens, 3, self.heads, channels // self.heads)
        mixed = window_attention(qkv, x.grid.windows(self.size, self.shift))
        return x.replace(self.to_out(mixed.flatten(1)))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.size}, shift={self.shift}"


class FeedForward(nn.Module):
    """Two linear layers with a tanh-GELU between them."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x)
        return out


class WindowTransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); norms without affine, eps 1e-6."""

    def __init__(
        self, channels: int, heads: int, mlp_ratio: float, window: int, shift: int
    ) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window, shift)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        h = x.feats
        h = h + self.attn(x.replace(plain_layer_norm(h, 1e-6))).feats
        h = h + self.mlp(plain_layer_norm(h, 1e-6))
        return x.replace(h)

"""The block of the dense DiT: full self-attention, cross-attention and MLP, modulated by time.

The same steps as the SS-DiT's block (`dit_block`), on samples that all have the same tokens, so
that a sample's shift, scale and gate are simply broadcast over them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.models.layers.cross_attention import CrossAttention, CrossPlan
from threed_gen.models.layers.dit_block import EPS, ModulatedBlock
from threed_gen.models.layers.head_norm import HeadRMSNorm


class FullAttention(nn.Module):
    """Multi-head attention of each sample's tokens over all of them; scale D^-0.5.

    qk_norm: RMS norm of every head of queries and keys, as released. Linear layers have biases and
    start Xavier-uniform; names as in the released checkpoints (rows of to_qkv: q, k, v).
    """

    def __init__(self, channels: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.q_rms_norm = HeadRMSNorm(heads, self.head_dim) if qk_norm else nn.Identity()
        self.k_rms_norm = HeadRMSNorm(heads, self.head_dim) if qk_norm else nn.Identity()
        self.qk_norm = qk_norm
        for layer in (self.to_qkv, self.to_out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        batch, tokens, _ = x_BTC.shape
        qkv = self.to_qkv(x_BTC).view(batch * tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.unbind(1)
        split = (batch, tokens, self.heads, self.head_dim)
        q, k, v = (
            part.view(split).transpose(1, 2)  # [B, H, T, D]
            for part in (self.q_rms_norm(q), self.k_rms_norm(k), v.contiguous())
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}"


class DenseDiTBlock(ModulatedBlock):
    """The block over samples of T tokens each."""

    self_attn: FullAttention

    def __init__(
        self, channels: int, context_channels: int, heads: int, mlp_ratio: float, qk_norm: bool
    ) -> None:
        attention = FullAttention(channels, heads, qk_norm)
        cross = CrossAttention(channels, context_channels, heads, channels // heads)
        super().__init__(channels, attention, cross, mlp_ratio)

    def forward(self, x_BTC: Tensor, time: Tensor, context: Tensor, cross: CrossPlan) -> Tensor:
        """x [B, T, C], time embedding [B, C], packed condition tokens [S, C'] -> [B, T, C]."""
        h = x_BTC
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            part[:, None] for part in self.adaLN_modulation(time).chunk(6, dim=1)
        )
        h = _gated(h, self.self_attn(_modulated(h, shift1, scale1)), gate1)
        said = self.cross_attn(self.norm2(h).flatten(0, 1), context, cross)
        h = h + said.view(h.shape)
        return _gated(h, self.mlp(_modulated(h, shift2, scale2)), gate2)

    def bytes_per_token(self, itemsize: int) -> tuple[int, int]:
        """Bytes kept for backward for each token: plain, and when recomputed. An estimate.

        itemsize: of the compute dtype. Counts rows of the channels and of the MLP's hidden layer;
        norms keep fp32, softmax sums take 4 bytes a head. Condition tokens are left out.
        """
        wide, heads = self.channels, self.self_attn.heads
        fp32 = 6 * wide + (4 * wide if self.self_attn.qk_norm else 0)
        rows = 14 * wide + 2 * self.hidden
        return rows * itemsize + 4 * (fp32 + 2 * heads), wide * itemsize


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) · (1 + scale) + shift in fp32 or wider, then in the dtype of x."""
    normed = F.layer_norm(_wide(x), x.shape[-1:], eps=EPS)
    return (normed * (1 + _wide(scale)) + _wide(shift)).to(x.dtype)


def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate · y in fp32 or wider, then in the dtype of x."""
    return (x + _wide(gate) * y).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

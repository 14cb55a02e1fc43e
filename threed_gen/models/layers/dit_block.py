"""The block of diffusion transformers, and that of the SS-DiT with its sparse self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ssa import SSAPlan
from threed_gen.models.layers.cross_attention import CrossAttention, CrossPlan
from threed_gen.models.layers.modulation import gated_residual, modulated_norm
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.models.layers.window_transformer import FeedForward
from threed_gen.sparse.norm import segment_plan
from threed_gen.sparse.sparse_tensor import SparseTensor

EPS = 1e-6


class AffineNorm(nn.LayerNorm):
    """Layer norm with gain and bias, statistics in fp32 or wider, output in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class ModulatedBlock(nn.Module):
    """Three residual steps; parameter names are those of the released checkpoints.

    x += gate₁ · attention(norm(x) · (1 + scale₁) + shift₁); x += cross(affine_norm(x));
    x += gate₂ · mlp(norm(x) · (1 + scale₂) + shift₂). Shift₁, scale₁, gate₁, shift₂, scale₂, gate₂
    come, in this order, from one linear layer on SiLU of the time embedding; it starts at zero.
    attention: the self-attention; cross: the attention to the condition.
    """

    def __init__(
        self, channels: int, attention: nn.Module, cross: CrossAttention, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.norm2 = AffineNorm(channels, eps=EPS)
        self.self_attn = attention
        self.cross_attn = cross
        self.mlp = FeedForward(channels, mlp_ratio)
        self.channels, self.hidden = channels, int(channels * mlp_ratio)
        modulation = nn.Linear(channels, 6 * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)
        for layer in self.mlp.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)


class DiTBlock(ModulatedBlock):
    """The block over packed tokens on their cells; the plan of a call has the window's shift.

    fused_modulation: see `layers.modulation`.
    """

    self_attn: SpatialSparseAttention

    def __init__(
        self, channels: int, attention: SpatialSparseAttention, cross: CrossAttention,
        mlp_ratio: float, fused_modulation: bool,
    ) -> None:  # fmt: skip
        super().__init__(channels, attention, cross, mlp_ratio)
        self.fused = fused_modulation

    def forward(
        self, x: SparseTensor, time: Tensor, context: Tensor, plan: SSAPlan, cross: CrossPlan
    ) -> SparseTensor:
        """x.feats [N, C], time embedding [B, C], condition tokens [T, C'] -> [N, C]."""
        samples, h = segment_plan(x.grid), x.feats
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(time).chunk(6, dim=1)
        y = modulated_norm(h, shift1, scale1, samples, eps=EPS, fused=self.fused)
        y = self.self_attn(x.replace(y), plan).feats
        h = gated_residual(h, y, gate1, samples, fused=self.fused)
        h = h + self.cross_attn(self.norm2(h), context, cross)
        y = modulated_norm(h, shift2, scale2, samples, eps=EPS, fused=self.fused)
        h = gated_residual(h, self.mlp(y), gate2, samples, fused=self.fused)
        return x.replace(h)

    def bytes_per_token(self, itemsize: int) -> tuple[int, int]:
        """Bytes kept for backward for each token: plain, and when recomputed. An estimate.

        itemsize: of the compute dtype. Counts rows of the channels, of the attention's width, of K
        and V and of the MLP's hidden layer; norms keep fp32, softmax sums and chosen blocks take 4
        bytes. Condition tokens and whatever is per sample or per cell are left out.
        """
        attention = self.self_attn
        wide, hidden = self.channels, self.hidden
        inner = attention.heads * attention.head_dim
        shared = attention.kv_heads * attention.head_dim
        chosen = 4 * attention.kv_heads * attention.top_k
        fp32 = (2 if self.fused else 8) * wide
        if self.cross_attn.qk_norm:
            fp32 += 2 * (2 * inner + shared)
        rows = 8 * wide + 7 * inner + 4 * shared + 2 * hidden
        sums = 4 * attention.heads
        return rows * itemsize + 4 * (fp32 + sums) + chosen, wide * itemsize + chosen

"""PatchEncoder: a small picture encoder that is trained along with the model. It is not DINO.

Every patch of colour and mask goes through one linear layer and gets its place in the picture; a
few transformer blocks follow, and a norm. It needs no download and suits pictures of 64 to 128
pixels: for tests, laptops and small experiments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.models.conditioning.config import PatchesConfig
from threed_gen.models.conditioning.sparse import TokenLayout
from threed_gen.models.layers.position import position_embedding
from threed_gen.models.layers.window_transformer import FeedForward, plain_layer_norm

EPS = 1e-6


class PatchEncoder(nn.Module):
    """Pictures [B, 4, S, S] -> tokens [B, 1 + P, C]: one of the whole, then P = (S / patch)²."""

    def __init__(self, config: PatchesConfig, size: int) -> None:
        super().__init__()
        self.layout = TokenLayout(size, config.patch, prefix=1)
        self.channels = config.channels
        self.input_layer = nn.Linear(4 * config.patch**2, config.channels)
        self.whole = nn.Parameter(torch.randn(config.channels) * 0.02)
        self.blocks = nn.ModuleList(
            _Block(config.channels, config.heads, config.mlp_ratio) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.channels, eps=EPS)
        places = self.layout.positions(self.layout.all_tokens()[1:])
        table = position_embedding(places, config.channels, 1.0)
        self.register_buffer("places", table, persistent=False)  # [P, C]

    def forward(self, pictures: Tensor) -> Tensor:
        layout = self.layout
        assert pictures.shape[1:] == (4, layout.size, layout.size)
        side, patch = layout.side, layout.patch
        centred = 2 * pictures.to(self.input_layer.weight.dtype) - 1
        patches = centred.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, P, 4 * patch²]
        assert isinstance(self.places, Tensor)
        tokens = self.input_layer(patches) + self.places
        x = torch.cat([self.whole.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), among the tokens of one picture."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(plain_layer_norm(x, EPS)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, D]
        x = x + self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(plain_layer_norm(x, EPS))
        return out

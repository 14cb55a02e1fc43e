"""Structure DiT: the dense diffusion transformer that says which latent cells a shape has.

One token per patch of a small dense grid: the structure VAE's latents (released: 16³ cells of 8
channels, patch 1, so 4,096 tokens), or occupancy itself. Time enters every block as shift, scale
and gate, the condition through cross-attention; all tokens see all others. The output is the
velocity v = ε − x0 of rectified flow, t = 1 is noise. (Direct3D-S2's dense stage, from its code;
its paper calls it Trellis' structure flow, arXiv 2412.01506 §3.3.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.config import Config
from threed_gen.models.layers.checkpointing import checkpoint_block
from threed_gen.models.layers.cross_attention import CrossPlan, PackedTokens, cross_plan
from threed_gen.models.layers.dense_dit_block import DenseDiTBlock
from threed_gen.models.layers.dense_patches import patch_coords, patchify, unpatchify
from threed_gen.models.layers.modulation import TimeEmbedder
from threed_gen.models.layers.position import position_embedding
from threed_gen.models.ss_dit import FINAL_EPS, recomputed_blocks


class StructureDiTConfig(Config):
    """Sizes of the structure DiT; the defaults are the released model's (555.5 M parameters)."""

    grid: int = 16  # cells along an axis of what it denoises
    patch: int = 1  # cells along an axis of a token
    latent_channels: int = 8
    channels: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    condition_channels: int = 1024
    qk_norm: bool = True  # in self-attention; the released cross-attention has none
    time_scale: float = 1000.0  # t in [0, 1] times this goes into the embedding
    checkpoint: Literal["none", "blocks"] = "none"  # recompute activations in backward
    checkpoint_budget: int | None = None  # bytes of activations; None: recompute every block

    @model_validator(mode="after")
    def _sizes_fit(self) -> StructureDiTConfig:
        for name in ("grid", "patch", "latent_channels", "channels", "blocks", "heads",
                     "condition_channels"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.grid % self.patch:
            raise ValueError(f"patch {self.patch} must divide grid {self.grid}")
        if self.channels % self.heads:
            raise ValueError(f"heads {self.heads} must divide channels {self.channels}")
        return self

    @property
    def tokens(self) -> int:
        """Of one sample."""
        return (self.grid // self.patch) ** 3


class StructureDiT(nn.Module):
    """The velocity of a noisy dense grid; state-dict names are those of the released checkpoints.

    `pos_emb` [tokens, C] is a constant: released checkpoints carry it, those of training (which
    hold parameters only) do not, and loading takes either.
    """

    pos_emb: Tensor

    def __init__(self, config: StructureDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, inside = config.channels, config.latent_channels * config.patch**3
        self.t_embedder = TimeEmbedder(width, config.time_scale)
        self.input_layer = nn.Linear(inside, width)
        self.blocks = nn.ModuleList(
            DenseDiTBlock(
                width, config.condition_channels, config.heads, config.mlp_ratio, config.qk_norm
            )
            for _ in range(config.blocks)
        )
        self.out_layer = nn.Linear(width, inside)
        coords = patch_coords([config.grid] * 3, config.patch)
        self.register_buffer("pos_emb", position_embedding(coords, width, 1.0))
        nn.init.xavier_uniform_(self.input_layer.weight)
        nn.init.zeros_(self.input_layer.bias)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(self, x: Tensor, t: Tensor, condition: PackedTokens) -> Tensor:
        """Velocity of x [B, C, g, g, g] at times t [B] in [0, 1]; the same shape.

        condition: tokens of the same B samples. Raises ValueError for another grid, or when the
        condition or t is of another number of samples.
        """
        config = self.config
        batch, sides = x.shape[0], [config.grid] * 3
        if x.shape[1:] != (config.latent_channels, *sides):
            want = [config.latent_channels, *sides]
            raise ValueError(f"x: got shape {list(x.shape)}, it must be [B, {str(want)[1:]}")
        if t.shape != (batch,):
            raise ValueError(f"t: got shape {list(t.shape)}, it must be [{batch}]")
        cross = self._cross(batch, x.device, condition)
        weight = self.input_layer.weight.dtype
        time, context = self.t_embedder(t), condition.feats.to(weight)
        h = self.input_layer(patchify(x, config.patch).to(weight))  # [B, T, C]
        h = h + self.pos_emb.to(h.dtype)
        for block, again in zip(self.blocks, self._recomputed(batch), strict=True):
            args = h, time, context, cross
            h = checkpoint_block(block, *args) if again else block(*args)
        normed = F.layer_norm(_wide(h), h.shape[-1:], eps=FINAL_EPS).to(h.dtype)
        return unpatchify(self.out_layer(normed), sides, config.patch)

    def _cross(self, batch: int, device: torch.device, condition: PackedTokens) -> CrossPlan:
        config = self.config
        starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * config.tokens
        return cross_plan(
            starts, [config.tokens] * batch, condition.cu_seqlens, condition.seqlens,
            self._compute_dtype(), config.channels // config.heads,
        )  # fmt: skip

    def _recomputed(self, batch: int) -> list[bool]:
        config = self.config
        if config.checkpoint == "none" or not torch.is_grad_enabled():
            return [False] * config.blocks
        block = self.blocks[0]
        assert isinstance(block, DenseDiTBlock)
        plain, thin = block.bytes_per_token(self._compute_dtype().itemsize)
        return recomputed_blocks(
            config.blocks, batch * config.tokens, plain, thin, config.checkpoint_budget
        )

    def _compute_dtype(self) -> torch.dtype:
        """What matrix products run in: the autocast dtype, or that of the weights."""
        weight = self.input_layer.weight
        kind = weight.device.type
        if weight.dtype != torch.float64 and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return weight.dtype

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take weights that lack the constant `pos_emb`."""
        filled = {f"{prefix}pos_emb": self.pos_emb, **state_dict}
        super()._load_from_state_dict(filled, prefix, *args)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

"""SS-DiT: the diffusion transformer of Direct3D-S2 over sparse latents, released and other sizes.

One token per latent cell. Time enters every block as shift, scale and gate of each sample, the
condition through cross-attention, and the tokens mix by Spatial Sparse Attention with windows that
shift in every other block. The output is the velocity v = ε - x0 of rectified flow, t = 1 is noise.
(arXiv 2505.17412 §3.2-3.3; details from the official code.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ssa import SSAPlan, build_plan
from kernels.ssa.attention import Backend
from threed_gen.config import Config
from threed_gen.models.layers.cell_compression import Compression
from threed_gen.models.layers.checkpointing import checkpoint_block
from threed_gen.models.layers.cross_attention import CrossAttention, PackedTokens, cross_plan
from threed_gen.models.layers.dit_block import DiTBlock
from threed_gen.models.layers.modulation import TimeEmbedder
from threed_gen.models.layers.position import position_embedding
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.sparse.cells import prepare_cells
from threed_gen.sparse.conv import Backend as ConvBackend
from threed_gen.sparse.norm import segment_plan
from threed_gen.sparse.pool import Pooling
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

PAPER_RESOLUTION = 64  # position_factor None: 64 / latent resolution, so positions span 64 cells
FINAL_EPS = 1e-5


class SSDiTConfig(Config):
    """Sizes of the SS-DiT; the defaults are the released model 1.1 (509.3 M parameters)."""

    latent_channels: int = 16
    channels: int = 1024
    blocks: int = 24
    heads: int = 32
    kv_heads: int = 2
    head_dim: int = 32
    mlp_ratio: float = 4.0
    condition_channels: int = 1024
    project_condition: bool = False  # 1.0: a linear layer, then the tokens' places in the image
    compression: Compression = "linear"  # 1.0: residual
    cell: int = 8  # 1.0: 4
    window: int = 8  # odd blocks are shifted by half of it
    top_k: int = 8  # 1.0 for 512: 32
    qk_norm: bool = False  # in self- and cross-attention
    fused_modulation: bool = False  # the same function with half the memory around the norms
    position_factor: float | None = None  # None: 64 / latent resolution; released: 1.0 and 0.5
    pooling: Pooling = "mean"  # released: divides by one more than a cell has tokens
    time_scale: float = 1000.0  # t in [0, 1] times this goes into the embedding
    checkpoint: Literal["none", "blocks"] = "none"  # recompute activations in backward
    checkpoint_budget: int | None = None  # bytes of activations; None: recompute every block
    compile: bool = False  # `torch.compile` of the block: the first steps take minutes
    backend: Backend = "auto"
    conv_backend: ConvBackend = "auto"

    @model_validator(mode="after")
    def _sizes_fit(self) -> SSDiTConfig:
        for name in ("latent_channels", "channels", "blocks", "heads", "kv_heads", "head_dim",
                     "condition_channels", "top_k"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError("kv_heads must divide heads")
        if self.cell not in (4, 8):
            raise ValueError("cell must be 4 or 8")
        if self.window < 2 or self.window % 2:
            raise ValueError("window must be even and at least 2")
        return self


def release_1_0(**changes: Any) -> SSDiTConfig:
    """The released model 1.0 for 512 (520.1 M parameters); that for 1024 has top_k 8."""
    old: dict[str, Any] = {
        "compression": "residual",
        "cell": 4,
        "top_k": 32,
        "project_condition": True,
    }
    return SSDiTConfig(**(old | changes))


def release_1_1(**changes: Any) -> SSDiTConfig:
    """The released model 1.1 (509.3 M parameters)."""
    return SSDiTConfig(**changes)


def recommended(**changes: Any) -> SSDiTConfig:
    """Ours: 1.1 with 16 heads of 64, QK-norm and fused modulation."""
    ours: dict[str, Any] = {"heads": 16, "head_dim": 64, "qk_norm": True, "fused_modulation": True}
    return SSDiTConfig(**(ours | changes))


def tiny(**changes: Any) -> SSDiTConfig:
    """The recommended model in a size for tests and laptops."""
    small: dict[str, Any] = {
        "latent_channels": 8, "channels": 64, "blocks": 4, "heads": 4, "kv_heads": 2,
        "head_dim": 16, "mlp_ratio": 2.0, "condition_channels": 32, "top_k": 4,
    }  # fmt: skip
    return recommended(**(small | changes))


class SSDiT(nn.Module):
    """The velocity of noisy latents; parameter names are those of the released checkpoints."""

    def __init__(self, config: SSDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, context = config.channels, config.condition_channels
        self.t_embedder = TimeEmbedder(width, config.time_scale)
        self.input_layer = nn.Linear(config.latent_channels, width)
        projected = config.project_condition
        if projected:
            self.cond_proj = nn.Linear(context, width)
            context = width
        self.blocks = nn.ModuleList(_block(config, context) for _ in range(config.blocks))
        self.out_layer = nn.Linear(width, config.latent_channels)
        for layer in (self.input_layer, self.cond_proj) if projected else (self.input_layer,):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)
        self._run: Callable[..., SparseTensor] = _run
        if config.compile:
            self.compile_blocks()

    def forward(self, x: SparseTensor, t: Tensor, condition: PackedTokens) -> SparseTensor:
        """Velocity [N, L] of x.feats [N, L] at times t [B] in [0, 1], t = 1 is noise.

        condition: tokens [T, C'] of the same B samples; their positions are needed where
        the config says project_condition. Best call `prepare` on the grid before, in a worker.
        Raises ValueError when the condition or t is of another number of samples, or positions
        are missing.
        """
        grid, config = x.grid, self.config
        if t.shape != (grid.batch_size,):
            raise ValueError(f"t: got shape {list(t.shape)}, it must be [{grid.batch_size}]")
        plan = self.plan(self.prepare(grid))  # now: a compiled block must find every table
        cross = cross_plan(
            grid.cu_seqlens, grid.seqlens, condition.cu_seqlens, condition.seqlens,
            self._compute_dtype(), config.head_dim,
        )  # fmt: skip
        time = self.t_embedder(t)
        context = self._context(condition)
        h = self.input_layer(x.feats.to(self.input_layer.weight.dtype))
        factor = config.position_factor
        if factor is None:
            factor = PAPER_RESOLUTION / grid.resolution
        place = position_embedding(grid.coords[:, 1:], config.channels, factor)
        x = x.replace(h + place.to(h.dtype))
        plans = [plan.with_shift(shift) for shift in (0, config.window // 2)]
        for i, (block, again) in enumerate(zip(self.blocks, self._recomputed(x), strict=True)):
            x = self._run(block, again, x, time, context, plans[i % 2], cross)
        normed = F.layer_norm(_wide(x.feats), x.feats.shape[-1:], eps=FINAL_EPS).to(x.feats.dtype)
        return x.replace(self.out_layer(normed))

    def plan(self, grid: VoxelGrid) -> SSAPlan:
        """The attention tables of `grid`, cached with it."""
        return attention_plan(grid, self.config)

    def prepare(self, grid: VoxelGrid) -> VoxelGrid:
        """Cache all index tables that a call on `grid` needs (in a loader's worker)."""
        return prepare_grid(grid, self.config)

    def compile_blocks(self, **options: Any) -> None:
        """Run every block through one `torch.compile`d function (options: its arguments).

        Checkpointing is inside of what is compiled, so that it still keeps the chosen blocks.
        """
        self._run = torch.compile(_run, fullgraph=True, **options)

    def _recomputed(self, x: SparseTensor) -> list[bool]:
        config = self.config
        if config.checkpoint == "none" or not torch.is_grad_enabled():
            return [False] * config.blocks
        block = self.blocks[0]
        assert isinstance(block, DiTBlock)
        plain, thin = block.bytes_per_token(self._compute_dtype().itemsize)
        budget = config.checkpoint_budget
        return recomputed_blocks(config.blocks, x.grid.num_voxels, plain, thin, budget)

    def _compute_dtype(self) -> torch.dtype:
        """What matrix products run in: the autocast dtype, or that of the weights."""
        weight = self.input_layer.weight
        kind = weight.device.type
        if weight.dtype != torch.float64 and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return weight.dtype

    def _context(self, condition: PackedTokens) -> Tensor:
        feats = condition.feats.to(self.input_layer.weight.dtype)
        if not self.config.project_condition:
            return feats
        if condition.positions is None:
            raise ValueError("condition: positions are missing, project_condition needs them")
        feats = self.cond_proj(feats)
        place = position_embedding(condition.positions, self.config.channels, 1.0)
        return feats + place.to(feats.dtype)


def attention_plan(grid: VoxelGrid, config: SSDiTConfig) -> SSAPlan:
    """The attention tables of `grid`, cached with it."""
    return grid.cached(
        ("ssa plan", config.cell, config.window),
        lambda: build_plan(
            grid.coords, cell=config.cell, window=config.window, batch_size=grid.batch_size
        ),
    )  # fmt: skip


def prepare_grid(grid: VoxelGrid, config: SSDiTConfig) -> VoxelGrid:
    """Cache every table of the SS-DiT on `grid` (the latent cells) and return it."""
    plan = attention_plan(grid, config)
    segment_plan(grid)
    if config.compression == "residual":
        prepare_cells(grid, plan)
    return grid


def recomputed_blocks(
    depth: int, tokens: int, plain: int, thin: int, budget: int | None
) -> list[bool]:
    """Which of `depth` blocks to recompute so that activations of `tokens` tokens fit the budget.

    plain, thin: bytes per token of a block that keeps its activations, and of one that does not.
    As few as fit, spread evenly; all of them without a budget or where nothing fits. One block that
    is being recomputed counts in full besides. Whole numbers of the host only.
    """
    count = depth
    if budget is not None:
        for fewer in range(depth + 1):
            rows = (depth - fewer) * plain + fewer * thin + (plain if fewer else 0)
            if tokens * rows <= budget:
                count = fewer
                break
    return [(i + 1) * count // depth > i * count // depth for i in range(depth)]


def _run(block: Callable[..., SparseTensor], recompute: bool, *args: Any) -> SparseTensor:
    return checkpoint_block(block, *args) if recompute else block(*args)


def _block(config: SSDiTConfig, context_channels: int) -> DiTBlock:
    attention = SpatialSparseAttention(
        config.channels, heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim,
        top_k=config.top_k, cell=config.cell, compression=config.compression,
        qk_norm=config.qk_norm, backend=config.backend, conv_backend=config.conv_backend,
        pooling=config.pooling,
    )  # fmt: skip
    cross = CrossAttention(
        config.channels, context_channels, config.heads, config.head_dim, config.qk_norm
    )
    return DiTBlock(config.channels, attention, cross, config.mlp_ratio, config.fused_modulation)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

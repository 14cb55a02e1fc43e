"""SS-VAE: the Sparse SDF VAE of Direct3D-S2, as released and at any other size.

Band voxels with one number each, s = clamp(sdf/tau, -1, 1), go in. Three residual blocks pool them
to one latent cell per 8³ brick, window attention mixes the cells, and each cell becomes a small
Gaussian. The decoder mixes again and subdivides three times: every latent cell gives back all 512
voxels of its brick. Nothing is pruned. (arXiv 2505.17412 §3.1; details from the official code.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from threed_gen.config import Config
from threed_gen.models.chunked_decode import chunked_tail, row_slices, through_windows
from threed_gen.models.layers.position import grid_position_embedding, position_embedding
from threed_gen.models.layers.resolution import DownBlock, UpBlock
from threed_gen.models.layers.window_transformer import WindowTransformerBlock, plain_layer_norm
from threed_gen.models.posterior import Posterior
from threed_gen.sparse.conv import Backend, SubmanifoldConv3d, folded_tables
from threed_gen.sparse.norm import segment_plan
from threed_gen.sparse.pool import Pooling
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

LEVELS = 3  # 8 = 2³: a latent cell is an 8³ brick
PAPER_RESOLUTION = 512  # position_factor None means 512 / R, so positions always span 64 cells


class SSVAEConfig(Config):
    """Sizes of the SS-VAE; the defaults are the released model's (37.87 M parameters)."""

    encoder_widths: tuple[int, ...] = (32, 64, 128, 512)
    decoder_widths: tuple[int, ...] = (512, 128, 64, 32)
    latent_channels: int = 16
    encoder_blocks: int = 4
    decoder_blocks: int = 4
    heads: int = 8
    window: int = 8  # latent cells along a window's edge; odd blocks are shifted by half of it
    mlp_ratio: float = 4.0
    norm_groups: int = 32  # never more than there are channels
    position_factor: float | None = None  # None: 512 / R
    pooling: Pooling = "mean"  # released: divides by one more than there are children
    mean_head_init: Literal["zero", "xavier"] = "zero"  # released: zero; learns, but late
    initial_logvar: float = 0.0  # released: 0
    output_init: Literal["zero", "xavier"] = "zero"  # last decoder layer; released: zero
    conv_init: Literal["released", "kaiming"] = "released"  # kaiming: learns many times sooner
    checkpoint: bool = False  # recompute activations in backward
    conv_backend: Backend = "auto"

    @model_validator(mode="after")
    def _sizes_fit(self) -> SSVAEConfig:
        for name in ("encoder_widths", "decoder_widths"):
            if len(getattr(self, name)) != LEVELS + 1 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} needs {LEVELS + 1} positive widths, one per resolution")
        if self.encoder_widths[-1] % self.heads or self.decoder_widths[0] % self.heads:
            raise ValueError("heads must divide the last encoder and the first decoder width")
        for width in self.encoder_widths:
            if width % min(self.norm_groups, width):
                raise ValueError(f"norm_groups {self.norm_groups} do not divide width {width}")
        if min(self.latent_channels, self.window, self.norm_groups) < 1:
            raise ValueError("latent_channels, window and norm_groups must be at least 1")
        return self


class SSVAE(nn.Module):
    """Encoder and decoder; parameter names are those of the released checkpoints."""

    def __init__(self, config: SSVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.conv_init == "kaiming":
            for module in self.modules():
                if isinstance(module, SubmanifoldConv3d):
                    module.init_kaiming()

    def forward(self, x: SparseTensor, noise: Tensor) -> tuple[SparseTensor, Posterior]:
        """Encode x, sample with standard normal noise [latent cells, L], decode."""
        posterior = self.encode(x)
        return self.decode(posterior.sample(noise)), posterior

    def encode(self, x: SparseTensor) -> Posterior:
        """Posterior of the latent cells from s of the band voxels, x.feats [N, 1]."""
        return Posterior.from_moments(self.encoder(x))

    def decode(self, z: SparseTensor, chunk: int | None = None) -> SparseTensor:
        """ŝ in (-1, 1) of all 512 voxels of every latent cell; z.feats [M, L] -> [512·M, 1].

        Rows come in canonical order: by sample, brick (lexicographic), then `RASTER_TO_CANONICAL`.
        chunk: decode cubes of that many latent cells per edge one after the other, and windows of
        the transformer in groups, to bound memory; the same result, without gradients.
        """
        out: SparseTensor = self.decoder(z, chunk=chunk)
        return out

    def prepare(self, grid: VoxelGrid) -> VoxelGrid:
        """Build all index tables that encode and decode of `grid` need (in a loader's worker)."""
        return prepare_grid(grid, self.config.window)


def prepare_grid(grid: VoxelGrid, window: int) -> VoxelGrid:
    """Cache every table of the SS-VAE on `grid` (the band voxels) and return it."""
    level = grid
    segment_plan(level)
    for _ in range(LEVELS):
        level = level.pooled().coarse
        segment_plan(level)
        level.neighbour_rows()
    level.windows(window, 0)
    level.windows(window, window // 2)
    for _ in range(LEVELS):
        level.neighbour_rows()
        folded_tables(level)
        level = level.subdivided().fine
    return grid


class Encoder(nn.Module):
    """Band voxels [N, 1] -> moments [M, 2·L] of the latent cells."""

    def __init__(self, config: SSVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.encoder_widths
        self.input_layer1 = nn.Linear(1, widths[0])
        self.downsample = nn.ModuleList(
            DownBlock(narrow, wide, config.norm_groups, config.conv_backend, config.pooling)
            for narrow, wide in zip(widths[:-1], widths[1:], strict=True)
        )
        self.input_layer = nn.Linear(widths[-1], widths[-1])
        self.blocks = _transformer(widths[-1], config.encoder_blocks, config)
        self.out_layer = nn.Linear(widths[-1], 2 * config.latent_channels)
        self.apply(_xavier)
        with torch.no_grad():
            latents = config.latent_channels
            self.out_layer.weight[latents:].zero_()
            if config.mean_head_init == "zero":
                self.out_layer.weight.zero_()
            self.out_layer.bias[latents:].fill_(config.initial_logvar)

    def forward(self, x: SparseTensor) -> SparseTensor:
        assert x.feats.shape == (x.grid.num_voxels, 1)
        h = x.replace(self.input_layer1(_enter(x.feats, self.input_layer1)))
        for block in self.downsample:
            h = _run(block, h, self.config)
        h = _add_position(h.replace(self.input_layer(h.feats)), self.config)
        for block in self.blocks:
            h = _run(block, h, self.config)
        return h.replace(self.out_layer(plain_layer_norm(h.feats, 1e-5)))


class Decoder(nn.Module):
    """Latents [M, L] -> ŝ [512·M, 1]."""

    def __init__(self, config: SSVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.decoder_widths
        self.input_layer = nn.Linear(config.latent_channels, widths[0])
        self.blocks = _transformer(widths[0], config.decoder_blocks, config)
        self.upsample = nn.ModuleList(
            UpBlock(wide, narrow, config.conv_backend)
            for wide, narrow in zip(widths[:-1], widths[1:], strict=True)
        )
        self.out_layer = nn.Linear(widths[-1], 1)
        self.apply(_xavier)
        if config.output_init == "zero":
            nn.init.zeros_(self.out_layer.weight)

    def forward(self, z: SparseTensor, chunk: int | None = None) -> SparseTensor:
        if chunk is None:
            return self.tail(self.mix(z))
        with torch.no_grad():
            return chunked_tail(self.mix_in_pieces(z), self.tail, chunk)

    def mix(self, z: SparseTensor) -> SparseTensor:
        """The transformer: latents [M, L] -> features [M, widths[0]]."""
        h = z.replace(self.input_layer(_enter(z.feats, self.input_layer)))
        h = _add_position(h, self.config)
        for block in self.blocks:
            h = _run(block, h, self.config)
        return h

    def mix_in_pieces(self, z: SparseTensor) -> SparseTensor:
        """`mix` with one copy of the features of all cells and no more; without gradients."""
        grid, width = z.grid, self.config.decoder_widths[0]
        factor = _position_factor(grid, self.config)
        feats = self.input_layer(_enter(z.feats[:0], self.input_layer))  # tells the precision
        h = SparseTensor(feats.new_empty(grid.num_voxels, width), grid)
        for rows in row_slices(grid.num_voxels):
            part = self.input_layer(_enter(z.feats[rows], self.input_layer))
            place = position_embedding(grid.coords[rows, 1:], width, factor)
            h.feats[rows] = part + place.to(part.dtype)
        for block in self.blocks:
            assert isinstance(block, WindowTransformerBlock)
            through_windows(h, block, block.attn.size, block.attn.shift)
        return h

    def tail(self, h: SparseTensor) -> SparseTensor:
        """The convolutions: features of the latent cells -> ŝ of all their voxels."""
        for block in self.upsample:
            h = _run(block, h, self.config)
        out = self.out_layer(h.feats)
        return h.replace(torch.tanh(out if out.dtype == torch.float64 else out.float()))


def _transformer(width: int, depth: int, config: SSVAEConfig) -> nn.ModuleList:
    shifts = [config.window // 2 * (i % 2) for i in range(depth)]
    return nn.ModuleList(
        WindowTransformerBlock(width, config.heads, config.mlp_ratio, config.window, shift)
        for shift in shifts
    )


def _add_position(h: SparseTensor, config: SSVAEConfig) -> SparseTensor:
    factor = _position_factor(h.grid, config)
    table = grid_position_embedding(h.grid, h.feats.shape[1], factor)
    return h.replace(h.feats + table.to(h.feats.dtype))


def _position_factor(latent: VoxelGrid, config: SSVAEConfig) -> float:
    if config.position_factor is not None:
        return config.position_factor
    return PAPER_RESOLUTION / (latent.resolution << LEVELS)


def _run(
    block: Callable[[SparseTensor], SparseTensor], x: SparseTensor, config: SSVAEConfig
) -> SparseTensor:
    if not (config.checkpoint and torch.is_grad_enabled()):
        return block(x)
    out: SparseTensor = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
    return out


def _enter(feats: Tensor, layer: nn.Linear) -> Tensor:
    """Features in the precision of the weights (autocast, when it is on, decides after this)."""
    return feats.to(layer.weight.dtype)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

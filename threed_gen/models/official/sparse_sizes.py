"""Sizes of the two sparse networks: official arguments to our configs, and back."""

from __future__ import annotations

from typing import Any

from threed_gen.config import validate
from threed_gen.models.official.params import SparseDiTParams, SparseVAEParams
from threed_gen.models.official.refuse import refuse_unless
from threed_gen.models.ss_dit import PAPER_RESOLUTION as PAPER_CELLS
from threed_gen.models.ss_dit import SSDiTConfig
from threed_gen.models.ss_vae import LEVELS, PAPER_RESOLUTION, SSVAEConfig

CELL = 2**LEVELS  # voxels along the edge of a latent cell
NARROWING = (16, 8, 4, 1)  # of the last width, from the voxels to the latent cells
COMPRESSION = {"v1": "linear", "v2": "residual"}


def sparse_vae_config(params: SparseVAEParams, source: str) -> SSVAEConfig:
    """Our config of a `SparseSDFVAE`."""
    refuse_unless(source, {
        "out_channels": (params.out_channels, 1),
        "num_heads_decoder": (params.num_heads_decoder, params.num_heads_encoder),
        "latents_scale": (params.latents_scale, 1.0),
        "latents_shift": (params.latents_shift, 0.0),
        "model_channels_encoder modulo 16": (params.model_channels_encoder % NARROWING[0], 0),
        "model_channels_decoder modulo 16": (params.model_channels_decoder % NARROWING[0], 0),
    })  # fmt: skip
    wide, out = params.model_channels_encoder, params.model_channels_decoder
    # The official pipeline multiplies no coordinates, whatever the resolution.
    ours = PAPER_RESOLUTION / (params.resolution * CELL)
    tree: dict[str, Any] = {
        "encoder_widths": tuple(wide // part for part in NARROWING),
        "decoder_widths": tuple(out // part for part in reversed(NARROWING)),
        "latent_channels": params.embed_dim,
        "encoder_blocks": params.num_blocks_encoder,
        "decoder_blocks": params.num_blocks_decoder,
        "heads": params.num_heads_encoder,
        "position_factor": None if ours == 1.0 else 1.0,
        "pooling": "released",
        "checkpoint": params.use_checkpoint,
    }
    return validate(SSVAEConfig, tree, source)


def sparse_vae_params(config: SSVAEConfig, resolution: int, source: str) -> SparseVAEParams:
    """The arguments of `SparseSDFVAE` that give our network."""
    wide, out = config.encoder_widths[-1], config.decoder_widths[0]
    factor = config.position_factor
    factor = PAPER_RESOLUTION / resolution if factor is None else factor
    refuse_unless(source, {
        "model.encoder_widths": (config.encoder_widths, tuple(wide // p for p in NARROWING)),
        "model.decoder_widths": (config.decoder_widths, tuple(out // p for p in NARROWING[::-1])),
        "model.norm_groups": (config.norm_groups, 32),
        "model.mlp_ratio": (config.mlp_ratio, 4.0),
        "model.window": (config.window, 8),
        "model.pooling": (config.pooling, "released"),
        f"model.position_factor (at {resolution}³)": (factor, 1.0),
    })  # fmt: skip
    return SparseVAEParams(
        embed_dim=config.latent_channels,
        resolution=resolution // CELL,
        model_channels_encoder=wide,
        num_blocks_encoder=config.encoder_blocks,
        num_heads_encoder=config.heads,
        num_head_channels_encoder=wide // config.heads,
        model_channels_decoder=out,
        num_blocks_decoder=config.decoder_blocks,
        num_heads_decoder=config.heads,
        num_head_channels_decoder=out // config.heads,
        use_fp16=True,
        use_checkpoint=config.checkpoint,
        chunk_size=4 if resolution > PAPER_RESOLUTION else 1,
    )


def sparse_dit_config(params: SparseDiTParams, source: str) -> SSDiTConfig:
    """Our config of a `SparseDiT`."""
    refuse_unless(source, {
        "out_channels": (params.out_channels, params.in_channels),
        "pe_mode": (params.pe_mode, "ape"),
        "share_mod": (params.share_mod, False),
        "qk_rms_norm_cross": (params.qk_rms_norm_cross, False),
        "selection_block_size": (params.selection_block_size, 8),
        "use_shift": (params.use_shift, True),
        "compression_version": (params.compression_version, *COMPRESSION),
        "model_channels modulo num_heads": (params.model_channels % params.heads, 0),
    })  # fmt: skip
    if params.sparse_conditions:
        refuse_unless(source, {"cond_channels": (params.cond_channels, params.model_channels)})
    tree: dict[str, Any] = {
        "latent_channels": params.in_channels,
        "channels": params.model_channels,
        "blocks": params.num_blocks,
        "heads": params.heads,
        "kv_heads": params.num_kv_heads,
        "head_dim": params.model_channels // params.heads,
        "mlp_ratio": params.mlp_ratio,
        "condition_channels": params.cond_channels,
        "project_condition": params.sparse_conditions,
        "compression": COMPRESSION[params.compression_version],
        "cell": params.compression_block_size,
        "window": params.window_size,
        "top_k": params.topk,
        "position_factor": (
            None if params.factor == PAPER_CELLS / params.resolution else params.factor
        ),
        "pooling": "released",
        "checkpoint": "blocks" if params.use_checkpoint else "none",
    }
    return validate(SSDiTConfig, tree, source)


def sparse_dit_params(config: SSDiTConfig, resolution: int, source: str) -> SparseDiTParams:
    """The arguments of `SparseDiT` that give our network."""
    refuse_unless(source, {
        "model.heads × model.head_dim": (config.heads * config.head_dim, config.channels),
        "model.qk_norm": (config.qk_norm, False),
        "model.pooling": (config.pooling, "released"),
        "model.time_scale": (config.time_scale, 1000.0),
    })  # fmt: skip
    if config.project_condition:
        refuse_unless(source, {
            "model.condition_channels": (config.condition_channels, config.channels),
        })  # fmt: skip
    cells, factor = resolution // CELL, config.position_factor
    versions = {ours: theirs for theirs, ours in COMPRESSION.items()}
    return SparseDiTParams(
        resolution=cells,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        model_channels=config.channels,
        cond_channels=config.condition_channels,
        num_blocks=config.blocks,
        num_heads=config.heads,
        num_kv_heads=config.kv_heads,
        mlp_ratio=config.mlp_ratio,
        qk_rms_norm=True,
        compression_block_size=config.cell,
        topk=config.top_k,
        compression_version=versions[config.compression],
        sparse_conditions=config.project_condition,
        factor=PAPER_CELLS / cells if factor is None else factor,
        window_size=config.window,
        use_fp16=True,
        use_checkpoint=config.checkpoint != "none",
    )

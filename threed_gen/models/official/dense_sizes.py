"""Sizes of the two dense networks: official arguments to our configs, and back."""

from __future__ import annotations

from typing import Any

from threed_gen.config import validate
from threed_gen.models.official.params import DenseDiTParams, DenseVAEParams
from threed_gen.models.official.refuse import refuse_unless
from threed_gen.models.structure_dit import StructureDiTConfig
from threed_gen.models.structure_vae import StructureVAEConfig


def dense_vae_config(params: DenseVAEParams, source: str) -> StructureVAEConfig:
    """Our config of a `DenseShapeVAE`."""
    refuse_unless(source, {
        "in_channels": (params.in_channels, 1),
        "out_channels": (params.out_channels, 1),
        "latents_scale": (params.latents_scale, 1.0),
        "latents_shift": (params.latents_shift, 0.0),
    })  # fmt: skip
    tree: dict[str, Any] = {
        "encoder_widths": params.model_channels_encoder,
        "decoder_widths": params.model_channels_decoder,
        "latent_channels": params.embed_dim,
        "encoder_blocks": params.num_res_blocks_encoder,
        "encoder_middle_blocks": params.num_res_blocks_middle_encoder,
        "decoder_blocks": params.num_res_blocks_decoder,
        "decoder_middle_blocks": params.num_res_blocks_middle_decoder,
        "checkpoint": params.use_checkpoint,
    }
    return validate(StructureVAEConfig, tree, source)


def dense_vae_params(config: StructureVAEConfig, source: str) -> DenseVAEParams:
    """The arguments of `DenseShapeVAE` that give our network."""
    del source  # every network of ours can be said
    return DenseVAEParams(
        embed_dim=config.latent_channels,
        model_channels_encoder=config.encoder_widths,
        model_channels_decoder=config.decoder_widths,
        num_res_blocks_encoder=config.encoder_blocks,
        num_res_blocks_middle_encoder=config.encoder_middle_blocks,
        num_res_blocks_decoder=config.decoder_blocks,
        num_res_blocks_middle_decoder=config.decoder_middle_blocks,
        use_fp16=True,
        use_checkpoint=config.checkpoint,
    )


def dense_dit_config(params: DenseDiTParams, source: str) -> StructureDiTConfig:
    """Our config of a `DenseDiT`."""
    refuse_unless(source, {
        "out_channels": (params.out_channels, params.in_channels),
        "pe_mode": (params.pe_mode, "ape"),
        "share_mod": (params.share_mod, False),
        "qk_rms_norm_cross": (params.qk_rms_norm_cross, False),
        "latent_shape": (params.latent_shape, (params.in_channels, *[params.resolution] * 3)),
    })  # fmt: skip
    tree: dict[str, Any] = {
        "grid": params.resolution,
        "patch": params.patch_size,
        "latent_channels": params.in_channels,
        "channels": params.model_channels,
        "blocks": params.num_blocks,
        "heads": params.heads,
        "mlp_ratio": params.mlp_ratio,
        "condition_channels": params.cond_channels,
        "qk_norm": params.qk_rms_norm,
        "checkpoint": "blocks" if params.use_checkpoint else "none",
    }
    return validate(StructureDiTConfig, tree, source)


def dense_dit_params(config: StructureDiTConfig, source: str) -> DenseDiTParams:
    """The arguments of `DenseDiT` that give our network."""
    refuse_unless(source, {"model.time_scale": (config.time_scale, 1000.0)})
    return DenseDiTParams(
        resolution=config.grid,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        model_channels=config.channels,
        cond_channels=config.condition_channels,
        num_blocks=config.blocks,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        qk_rms_norm=config.qk_norm,
        patch_size=config.patch,
        latent_shape=(config.latent_channels, *[config.grid] * 3),
        use_fp16=True,
        use_checkpoint=config.checkpoint != "none",
    )

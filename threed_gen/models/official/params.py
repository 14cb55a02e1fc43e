"""The `params` of the released config's sections, with the defaults of the official classes.

Each section of a released `config.yaml` has a `target`, a dotted class name, and `params`, the
arguments of that class. An argument that is not known here is an error that names it: it may change
what the network computes. (Direct3D-S2, official code at a1cf235.)
"""

from __future__ import annotations

from typing import Any

from threed_gen.config import Config


class VAEParams(Config):
    """What both autoencoders take."""

    embed_dim: int  # channels of the latents
    out_channels: int = 1
    use_fp16: bool = False
    use_checkpoint: bool = False
    latents_scale: float = 1.0  # z = x / scale + shift of the flow's x
    latents_shift: float = 0.0


class SparseVAEParams(VAEParams):
    """`SparseSDFVAE`."""

    resolution: int = 64  # latent cells along an axis; 8 voxels each
    model_channels_encoder: int = 512
    num_blocks_encoder: int = 4
    num_heads_encoder: int = 8
    num_head_channels_encoder: int = 64  # without effect, as the number of heads is given
    model_channels_decoder: int = 512
    num_blocks_decoder: int = 4
    num_heads_decoder: int = 8
    num_head_channels_decoder: int = 64
    chunk_size: int = 1  # of decoding


class DenseVAEParams(VAEParams):
    """`DenseShapeVAE`."""

    in_channels: int = 1
    model_channels_encoder: tuple[int, ...] = (32, 128, 512)
    model_channels_decoder: tuple[int, ...] = (512, 128, 32)
    num_res_blocks_encoder: int = 2
    num_res_blocks_middle_encoder: int = 2
    num_res_blocks_decoder: int = 2
    num_res_blocks_middle_decoder: int = 2


class DiTParams(Config):
    """What both diffusion transformers take."""

    resolution: int  # cells along an axis
    in_channels: int
    out_channels: int
    model_channels: int
    cond_channels: int
    num_blocks: int
    num_heads: int | None = None  # None: model_channels / num_head_channels
    num_head_channels: int = 64
    mlp_ratio: float = 4.0
    pe_mode: str = "ape"
    share_mod: bool = False
    qk_rms_norm: bool = False
    qk_rms_norm_cross: bool = False
    use_fp16: bool = False
    use_checkpoint: bool = False

    @property
    def heads(self) -> int:
        """Of queries."""
        if self.num_heads is not None:
            return self.num_heads
        return self.model_channels // self.num_head_channels


class SparseDiTParams(DiTParams):
    """`SparseDiT`. Its qk_rms_norm has no effect: the official code does not hand it on."""

    num_kv_heads: int = 2
    compression_block_size: int = 4
    selection_block_size: int = 8
    topk: int = 8
    compression_version: str = "v2"
    sparse_conditions: bool = False
    factor: float = 1.0  # of coordinates, in the position embedding
    window_size: int = 8
    use_shift: bool = True


class DenseDiTParams(DiTParams):
    """`DenseDiT`."""

    patch_size: int = 2
    latent_shape: tuple[int, ...] = (8, 16, 16, 16)


class SchedulerParams(Config):
    """diffusers' `FlowMatchEulerDiscreteScheduler`."""

    num_train_timesteps: int = 1000
    shift: float = 1.0


class ImageEncoderParams(Config):
    """`DinoEncoder`."""

    model: str = "facebookresearch/dinov2"
    version: str = "dinov2_vitl14_reg"
    size: int = 518


def section(target: str, params: Config) -> dict[str, Any]:
    """One section of a released config, every argument written out."""
    return {"target": target, "params": params.model_dump(mode="json")}

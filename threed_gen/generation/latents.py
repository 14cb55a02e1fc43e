"""Latents out of noise, and fields out of latents: the two halves of generating a shape.

Where the latent cells lie is given here: by the truth in previews, by the structure stage when a
shape is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from threed_gen.data.batch import decoded_to_bricks
from threed_gen.flow.guidance import Pair
from threed_gen.flow.path import Draw, draw_noise, on_grid
from threed_gen.flow.sampler import SamplerConfig, sample
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.ss_dit import SSDiT
from threed_gen.models.ss_vae import SSVAE
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid


def sample_latents(
    model: SSDiT, grid: VoxelGrid, condition: PackedTokens, config: SamplerConfig, draw: Draw,
    indices: Sequence[int] | None = None, on_step: Callable[[], object] | None = None,
) -> Tensor:  # fmt: skip
    """Follow the flow from noise to the normalised latents of every cell of `grid`.

    Args:
        model: on the grid's device, in eval mode.
        condition: tokens of the grid's samples; guidance leads away from the same tokens, all zero.
        draw: of the noise; a sample's result depends on its own draw alone, not on its batch.
        indices: under which each sample draws; None: 0, 1, …
        on_step: called after every step of the sampler.

    Returns:
        x0 [N, L], float32.
    """
    chosen = range(grid.batch_size) if indices is None else indices
    noise = draw_noise(draw, chosen, grid.seqlens, model.config.latent_channels)
    null = condition._replace(feats=torch.zeros_like(condition.feats))
    pair = None
    if config.guidance.one_pass:
        twice = twice_the_samples(grid)
        pair = Pair(on_grid(model, twice), joined(condition, null))
    return sample(
        on_grid(model, grid), noise.to(grid.coords.device), grid.batch_size, condition, null,
        config, pair, on_step,
    )  # fmt: skip


def twice_the_samples(grid: VoxelGrid) -> VoxelGrid:
    """A grid of 2B samples: those of `grid`, and the same once more."""
    again = grid.coords.clone()
    again[:, 0] += grid.batch_size
    starts = torch.cat([grid.cu_seqlens, grid.cu_seqlens[1:] + grid.num_voxels])
    return VoxelGrid(
        torch.cat([grid.coords, again]), starts, grid.resolution, 2 * grid.batch_size,
        [*grid.seqlens, *grid.seqlens],
    )  # fmt: skip


def joined(first: PackedTokens, second: PackedTokens) -> PackedTokens:
    """The tokens of two batches as those of one."""
    positions = None
    if first.positions is not None and second.positions is not None:
        positions = torch.cat([first.positions, second.positions])
    return PackedTokens(
        torch.cat([first.feats, second.feats]),
        torch.cat([first.cu_seqlens, second.cu_seqlens[1:] + len(first.feats)]),
        (*first.seqlens, *second.seqlens),
        positions,
    )


@torch.no_grad()
def decode_latents(
    vae: SSVAE, z: SparseTensor, like: SparseSDF, chunk: int | None = None
) -> SparseSDF:
    """The field that the decoder makes of one shape's latents.

    Args:
        z: latents [T, L] of the bricks of `like`, as the SS-VAE speaks them (not normalised).
        like: gives bricks, resolution, τ and frame.
        chunk: latent cells along the cubes that are decoded one after the other, so that memory
            stays bounded; None: all at once.

    Returns:
        ŝ of every voxel of those bricks; `band` is where |ŝ| < 1, `sharp` is empty. Values that are
        not finite are kept, so that whoever judges the result can count them.
    """
    return field_of(vae.decode(z, chunk=chunk).feats, like)


def field_of(decoded: Tensor, like: SparseSDF) -> SparseSDF:
    """Decoder output [512·B, 1] as a field on the bricks of `like`."""
    predicted = np.clip(decoded_to_bricks(decoded), -1.0, 1.0)  # [B, 512]; NaN stays NaN
    if predicted.shape != like.sdf.shape:
        raise ValueError(f"decoded {predicted.shape} values for bricks of {like.sdf.shape}")
    return replace(
        like,
        sdf=predicted.astype(np.float32),
        band=np.abs(predicted) < 1,
        sharp=np.zeros_like(like.sharp),
    )

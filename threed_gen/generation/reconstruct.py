"""One shape through the SS-VAE and back: encode, take the posterior's mean, decode.

What a user calls "reconstruction", and what validation and evaluation judge. No sampling: the
mean of the posterior is decoded, so the same weights and shape give the same answer.
"""

from __future__ import annotations

import torch

from threed_gen.data.batch import collate
from threed_gen.generation.latents import field_of
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.ss_vae import SSVAE


@torch.no_grad()
def reconstruct(
    model: SSVAE, sdf: SparseSDF, device: torch.device | str, chunk: int | None = None
) -> SparseSDF:
    """Compress `sdf` and rebuild it.

    Args:
        model: on `device`; is put into eval mode for the call and given back as it was.
        sdf: a truncated field; its band voxels are the input, its bricks the latent tokens.
        device: where the model lives.
        chunk: latent cells along the cubes that are decoded one after the other, so that memory
            stays bounded; None: all at once.

    Returns:
        A field on the same bricks, resolution, τ and frame with the predicted ŝ of every voxel.
        `band` is where |ŝ| < 1 as predicted and `sharp` is empty: the model says nothing of it.
        Values that are not finite are kept, so that whoever judges the result can count them.
    """
    was_training = model.training
    model.eval()
    try:
        inputs = collate([sdf]).to(torch.device(device)).inputs
        decoded = model.decode(model.encode(inputs).mean, chunk=chunk)  # feats [512 · B, 1]
    finally:
        model.train(was_training)
    return field_of(decoded.feats, sdf)

"""Shapes packed into one batch, in the orders that the SS-VAE reads and writes.

Inputs are the band voxels of all samples, one behind the other; targets are *all* 512 voxels of
each active brick in the decoder's output order: batch, brick (lexicographic), then the canonical
order within the brick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import RASTER_TO_CANONICAL, VoxelGrid


@dataclass(frozen=True)
class Batch:
    """Packed samples of one micro-batch.

    Attributes:
        inputs: s of the band voxels, feats [N, 1].
        target: s of all voxels of active bricks [512·tokens], decoder order.
        band, sharp: bool [512·tokens], where the paper's V_in and V_sharp lie.
        tokens: latent tokens (active bricks) of each sample.
        positions: each sample's index in the global batch.
        names: each sample's id.
        is_padding: a stand-in that keeps collective calls of the ranks in step; its loss is 0.
    """

    inputs: SparseTensor
    target: Tensor
    band: Tensor
    sharp: Tensor
    tokens: list[int]
    positions: list[int]
    names: list[str]
    is_padding: bool = False

    @property
    def voxels(self) -> int:
        """Decoded voxels."""
        return int(self.target.shape[0])

    def to(self, device: torch.device) -> Batch:
        """The batch with all tensors and grid caches on `device`."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            target=self.target.to(device, non_blocking=True),
            band=self.band.to(device, non_blocking=True),
            sharp=self.sharp.to(device, non_blocking=True),
        )


def collate(
    samples: Sequence[SparseSDF],
    names: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    is_padding: bool = False,
) -> Batch:
    """Pack shapes of one resolution.

    Raises:
        ValueError: if there are none, or the resolutions differ.
    """
    resolutions = {sample.resolution for sample in samples}
    if len(resolutions) != 1:
        raise ValueError(f"a batch needs samples of one resolution, got {sorted(resolutions)}")
    coords, values = [], []
    for number, sample in enumerate(samples):
        xyz = sample.voxel_coords()[sample.band]  # [n, 3]
        batch = np.full((len(xyz), 1), number, dtype=np.int32)
        coords.append(np.concatenate([batch, xyz.astype(np.int32)], axis=1))
        values.append(sample.sdf[sample.band])
    grid, order = VoxelGrid.from_coords(
        torch.from_numpy(np.concatenate(coords)), resolutions.pop(), len(samples)
    )
    feats = torch.from_numpy(np.concatenate(values)).float()[order].unsqueeze(1)  # [N, 1]
    canonical = RASTER_TO_CANONICAL.numpy()

    def decoder_order(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([a[:, canonical].reshape(-1) for a in arrays]))

    return Batch(
        inputs=SparseTensor(feats, grid),
        target=decoder_order([sample.sdf for sample in samples]),
        band=decoder_order([sample.band for sample in samples]),
        sharp=decoder_order([sample.sharp for sample in samples]),
        tokens=[len(sample.bricks) for sample in samples],
        positions=list(positions) if positions is not None else list(range(len(samples))),
        names=list(names) if names is not None else [""] * len(samples),
        is_padding=is_padding,
    )


def decoded_to_bricks(values: Tensor) -> np.ndarray:
    """One sample's decoder output [512·B] or [512·B, 1] → float32 [B, 512] in raster order."""
    flat = values.detach().reshape(-1, 512).float().cpu().numpy()
    bricks = np.empty_like(flat)
    bricks[:, RASTER_TO_CANONICAL.numpy()] = flat
    return bricks

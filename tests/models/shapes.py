"""Small SDF batches and models for the tests of the SS-VAE."""

from __future__ import annotations

from typing import Any

import torch

from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import RASTER_TO_CANONICAL, VoxelGrid


def sphere(
    resolution: int, radius: float, squash: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bricks [B, 3] and s [B, 512] in raster order of a (squashed) sphere, tau = 4 voxels."""
    axis = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis / squash, indexing="ij")
    s = ((x * x + y * y + z * z).sqrt() - radius) * resolution / 4
    side = resolution // 8
    cubes = s.clamp(-1, 1).view(side, 8, side, 8, side, 8).permute(0, 2, 4, 1, 3, 5)
    values = cubes.reshape(-1, 512)
    active = torch.nonzero((values.abs() < 1).any(1))[:, 0]
    bricks = torch.stack([active // side**2, active // side % side, active % side], dim=1)
    return bricks, values[active]


def batch(shapes: list[tuple[torch.Tensor, torch.Tensor]], resolution: int) -> SparseTensor:
    """Band voxels of several shapes as the encoder wants them."""
    bricks, values = [b for b, _ in shapes], [v for _, v in shapes]
    grid, order = VoxelGrid.from_bricks(bricks, resolution, [v.abs() < 1 for v in values])
    return SparseTensor(torch.cat(values).reshape(-1)[order][:, None], grid)


def nothing() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 512, dtype=torch.float64)


def targets(shapes: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """s of all voxels of all bricks in the decoder's row order. [512 * bricks, 1]."""
    return torch.cat([v[:, RASTER_TO_CANONICAL] for _, v in shapes]).reshape(-1, 1)


def tiny_config(**changes: Any) -> SSVAEConfig:
    base: dict[str, Any] = {
        "encoder_widths": (4, 4, 8, 16),
        "decoder_widths": (16, 8, 6, 4),
        "latent_channels": 3,
        "encoder_blocks": 2,
        "decoder_blocks": 2,
        "heads": 2,
        "mean_head_init": "xavier",
        "output_init": "xavier",
    }
    return SSVAEConfig(**(base | changes))


def tiny_model(seed: int = 0, **changes: Any) -> SSVAE:
    torch.manual_seed(seed)
    return SSVAE(tiny_config(**changes)).double()

"""Absolute sine-cosine position embedding of voxel coordinates (TRELLIS, Direct3D-S2)."""

from __future__ import annotations

import torch
from torch import Tensor

from threed_gen.sparse.voxel_grid import VoxelGrid

PERIOD = 10_000.0


def position_embedding(coords: Tensor, channels: int, factor: float) -> Tensor:
    """Embedding of coords [N, 3] times `factor`. float32 [N, channels].

    F = channels // 6 frequencies 10000^(-j/F); per axis F sines, then F cosines; axes x, y, z one
    after the other; zeros fill up what is left.
    """
    frequencies = channels // 6
    exponent = torch.arange(frequencies, device=coords.device, dtype=torch.float32)
    omega = PERIOD ** (-exponent / max(frequencies, 1))
    angle = (coords.float() * factor)[:, :, None] * omega  # [N, 3, F]
    table = torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1)  # [N, 6 * F]
    return torch.nn.functional.pad(table, (0, channels - table.shape[1]))


def grid_position_embedding(grid: VoxelGrid, channels: int, factor: float) -> Tensor:
    """The embedding of a grid's voxels, cached with the grid. float32 [N, channels]."""
    return grid.cached(
        ("position embedding", channels, factor),
        lambda: position_embedding(grid.coords[:, 1:], channels, factor),
    )

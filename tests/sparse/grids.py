"""Voxel sets for tests, and the dense convolution that the sparse ones must equal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from threed_gen.sparse.voxel_grid import VoxelGrid


def random_grid(
    resolution: int, counts: list[int], seed: int = 0, device: str = "cpu"
) -> VoxelGrid:
    """A grid with counts[b] random voxels in sample b (0 for an empty sample)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for sample, count in enumerate(counts):
        cell = torch.randperm(resolution**3, generator=generator)[:count]
        xyz = [cell // resolution**2, cell // resolution % resolution, cell % resolution]
        parts.append(torch.stack([torch.full_like(cell, sample), *xyz], dim=1))
    grid, _ = VoxelGrid.from_coords(torch.cat(parts), resolution, len(counts))
    return grid.to(device)


def full_grid(resolution: int, batch_size: int = 1) -> VoxelGrid:
    return random_grid(resolution, [resolution**3] * batch_size)


def grid_of(voxels: list[list[int]], resolution: int, batch_size: int) -> VoxelGrid:
    coords = torch.tensor(voxels, dtype=torch.int32).reshape(-1, 4)
    return VoxelGrid.from_coords(coords, resolution, batch_size)[0]


def features(grid: VoxelGrid, channels: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (grid.num_voxels, channels)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def to_dense(feats: Tensor, grid: VoxelGrid) -> Tensor:
    """[N, C] -> [B, C, R, R, R], zero where there is no voxel; differentiable."""
    b, x, y, z = grid.coords.long().unbind(1)
    dense = feats.new_zeros(grid.batch_size, *[grid.resolution] * 3, feats.shape[1])
    return dense.index_put((b, x, y, z), feats).permute(0, 4, 1, 2, 3)


def from_dense(dense: Tensor, grid: VoxelGrid) -> Tensor:
    b, x, y, z = grid.coords.long().unbind(1)
    return dense.permute(0, 2, 3, 4, 1)[b, x, y, z]


def dense_weight(kernel: Tensor) -> Tensor:
    """kernel [27, i, o] as conv3d weight [o, i, 3, 3, 3]: w[o,i,a,b,c] = kernel[a+3b+9c, i, o]."""
    rows = [[[kernel[a + 3 * b + 9 * c] for c in range(3)] for b in range(3)] for a in range(3)]
    stacked = torch.stack([torch.stack([torch.stack(c) for c in b]) for b in rows])
    return stacked.permute(4, 3, 0, 1, 2)


def dense_conv(feats: Tensor, kernel: Tensor, bias: Tensor | None, grid: VoxelGrid) -> Tensor:
    """Submanifold convolution by torch's dense conv3d."""
    out = F.conv3d(to_dense(feats, grid), dense_weight(kernel), bias, padding=1)
    return from_dense(out, grid)

"""Voxel sets and tensors for the tests of Spatial Sparse Attention."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ssa import SSAPlan, build_plan, sort_coords
from tests.sparse.grids import random_grid


def shell(radius: float, resolution: int = 32, sample: int = 0, thickness: float = 0.9) -> Tensor:
    """Voxels near a sphere, int32 [n, 4], sorted."""
    axis = torch.arange(resolution) - (resolution - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    near = ((x * x + y * y + z * z).sqrt() - radius).abs() < thickness
    return of_mask(near, sample)


def torus(major: float, minor: float, resolution: int = 32, sample: int = 0) -> Tensor:
    axis = torch.arange(resolution) - (resolution - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    ring = (x * x + y * y).sqrt() - major
    return of_mask(((ring * ring + z * z).sqrt() - minor).abs() < 0.8, sample)


def of_mask(mask: Tensor, sample: int = 0) -> Tensor:
    xyz = mask.nonzero()
    coords = torch.cat([torch.full((len(xyz), 1), sample), xyz], dim=1).int()
    return sort_coords(coords)[0]


def random_voxels(counts: list[int], resolution: int = 24, seed: int = 0) -> Tensor:
    """counts[b] voxels in sample b, sorted."""
    return random_grid(resolution, counts, seed).coords


def inputs(
    plan: SSAPlan, heads: int = 4, groups: int = 2, width: int = 16, seed: int = 1,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:  # fmt: skip
    """q, k, v, k_cmp, v_cmp and gates, all of which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (plan.tokens, heads, width), (plan.tokens, groups, width), (plan.tokens, groups, width),
        (plan.num_cells, groups, width), (plan.num_cells, groups, width), (plan.tokens, 3),
    ]  # fmt: skip
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[-1] = tensors[-1].sigmoid()
    return [t.to(dtype).requires_grad_() for t in tensors]


def plan_of(
    coords: Tensor, cell: int = 4, shift: int = 0, batch_size: int | None = None
) -> SSAPlan:
    return build_plan(coords, cell=cell, shift=shift, batch_size=batch_size)


def one_sample(
    coords: Tensor, plan: SSAPlan, tensors: list[Tensor], sample: int
) -> tuple[slice, Tensor, list[Tensor]]:
    """One sample of a batch by itself: its rows, its coordinates as sample 0, its tensors."""
    rows, cells = plan.cu_seqlens.tolist(), plan.cells.of_sample.tolist()
    part = slice(rows[sample], rows[sample + 1])
    own = coords[part].clone()
    own[:, 0] = 0
    mine = [t[part] for t in tensors[:3]]
    mine += [t[cells[sample] : cells[sample + 1]] for t in tensors[3:5]] + [tensors[5][part]]
    return part, own, mine

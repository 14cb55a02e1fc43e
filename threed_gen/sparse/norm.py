"""Group norm whose statistics run over all voxels of a sample, never across samples.

The whole batch is reduced at once and without atomics: whole tiles of rows are summed first, then
tiles per sample, and the rows at a sample's two ends are added by a small gather. Statistics are
fp32 (or fp64) whatever the features are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

TILE = 256


@dataclass(frozen=True)
class SegmentPlan:
    """How to sum the rows of each sample: whole tiles, and the loose rows at both ends."""

    whole: Tensor  # float32 [B, T, 1], 1 where a tile lies inside the sample
    loose: Tensor  # int64 [B, E], rows outside whole tiles (0 where unused)
    used: Tensor  # float32 [B, E, 1], 1 where `loose` counts
    rows: Tensor  # int64 [N], sample of each row
    count: Tensor  # float64 [B, 1], voxels of the sample, at least 1


def segment_plan(grid: VoxelGrid) -> SegmentPlan:
    """The cached plan of a grid's samples."""
    return grid.cached("segments", lambda: _build_plan(grid))


def segment_sum(x: Tensor, plan: SegmentPlan) -> Tensor:
    """Sum of x [N, C] over the rows of each sample. [B, C]; no gradient is provided for."""
    if len(plan.count) == 1:
        return x.sum(0, keepdim=True)
    if not len(x):
        return x.new_zeros(len(plan.count), x.shape[1])
    tiles = x[: x.shape[0] // TILE * TILE].view(-1, TILE, x.shape[1]).sum(1)  # [T, C]
    total = (plan.whole.to(x.dtype) * tiles).sum(1)
    return total + (x[plan.loose] * plan.used.to(x.dtype)).sum(1)


def sample_mean(feats: Tensor, grid: VoxelGrid) -> Tensor:
    """Mean of each sample's rows: [N, C] -> [B, C], differentiable; 0 for an empty sample."""
    plan = segment_plan(grid)
    out = _SampleMean.apply(feats, plan)  # type: ignore[no-untyped-call]
    assert isinstance(out, Tensor)
    return out


class SampleGroupNorm(nn.Module):
    """Group norm per sample with affine weight and bias [C]; output in the input's dtype."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"group norm: {groups} groups do not divide {channels} channels")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        plan = segment_plan(x.grid)
        out = _GroupNorm.apply(  # type: ignore[no-untyped-call]
            x.feats, self.weight, self.bias, plan, self.groups, self.eps
        )
        return x.replace(out)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.weight.shape[0]}, eps={self.eps}"


class _GroupNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var per (sample, group)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        plan: SegmentPlan,
        groups: int,
        eps: float,
    ) -> Tensor:
        wide = _wide(x)
        mean = _group_mean(segment_sum(wide, plan), plan, groups)  # [B, C]
        centred = wide - _spread(mean, plan)
        rstd = (_group_mean(segment_sum(centred.square(), plan), plan, groups) + eps).rsqrt()
        out = centred.mul_(_spread(rstd * weight.to(wide.dtype), plan)).add_(bias.to(wide.dtype))
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.plan, ctx.groups = plan, groups
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        plan, groups = ctx.plan, ctx.groups
        gain, grad = weight.to(rstd.dtype), grad.to(rstd.dtype)
        centred = _wide(x) - _spread(mean, plan)
        sum_grad = segment_sum(grad, plan)  # [B, C]
        sum_product = segment_sum(grad * centred, plan)
        grad_bias = sum_grad.sum(0).to(weight.dtype)
        grad_weight = (sum_product * rstd).sum(0).to(weight.dtype)
        offset = _group_mean(sum_grad * gain, plan, groups) * rstd
        slope = _group_mean(sum_product * gain, plan, groups) * rstd.pow(3)
        grad_x = grad * _spread(gain * rstd, plan)
        grad_x -= centred.mul_(_spread(slope, plan)).add_(_spread(offset, plan))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None, None


class _SampleMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, plan: SegmentPlan) -> Tensor:
        ctx.plan, ctx.dtype = plan, feats.dtype
        wide = _wide(feats)
        return segment_sum(wide, plan) / plan.count.to(wide.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = grad / ctx.plan.count.to(grad.dtype)
        return scaled.index_select(0, ctx.plan.rows).to(ctx.dtype), None


def _group_mean(sums: Tensor, plan: SegmentPlan, groups: int) -> Tensor:
    """Channel sums [B, C] -> mean of each (sample, group), repeated for its channels. [B, C]."""
    batch, channels = sums.shape
    mean = sums.view(batch, groups, channels // groups).mean(2) / plan.count.to(sums.dtype)
    return mean[:, :, None].expand(batch, groups, channels // groups).reshape(batch, channels)


def _spread(per_sample: Tensor, plan: SegmentPlan) -> Tensor:
    """[B, C] -> one row per voxel [N, C] (left to broadcasting when there is one sample)."""
    return per_sample if len(per_sample) == 1 else per_sample.index_select(0, plan.rows)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _build_plan(grid: VoxelGrid) -> SegmentPlan:
    device, tiles = grid.device, grid.num_voxels // TILE
    start, stop = grid.cu_seqlens[:-1, None].long(), grid.cu_seqlens[1:, None].long()  # [B, 1]
    first, last = (start + TILE - 1) // TILE, stop // TILE  # whole tiles first <= t < last
    tile = torch.arange(tiles, device=device)
    whole = (tile >= first) & (tile < last)
    head_stop = torch.minimum(first * TILE, stop)
    tail_start = torch.maximum(last * TILE, head_stop)
    lane = torch.arange(TILE, device=device)
    head, tail = start + lane, tail_start + lane
    used = torch.cat([head < head_stop, tail < stop], dim=1)
    loose = torch.cat([head, tail], dim=1) * used
    count = grid.cu_seqlens.diff()[:, None].clamp_min(1)
    return SegmentPlan(
        whole[:, :, None].float(),
        loose,
        used[:, :, None].float(),
        grid.batch_index(),
        count.double(),
    )

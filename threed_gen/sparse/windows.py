"""Attention windows: which voxels attend to each other, as tables built once per grid.

Which voxels share a window is the rule of `window_key`. Two forms are kept: rows sorted by window
with `cu_seqlens` (variable length attention on a GPU), and padded buckets of windows of similar
size (everywhere else), which never need memory quadratic in the number of voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.voxel_order import window_key

if TYPE_CHECKING:
    from threed_gen.sparse.voxel_grid import VoxelGrid

# A window is padded to the next of these at most (then to the longest window of its bucket).
BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Bucket:
    """Windows of similar size, padded to a common length L."""

    count: int  # W
    length: int  # L
    mask: Tensor | None  # bool [W, 1, 1, L], True at real voxels; None when nothing is padded


@dataclass(frozen=True)
class Windows:
    """All windows of a grid for one size and shift."""

    order: Tensor  # int64 [N], rows sorted by window (stable)
    inverse: Tensor  # int64 [N], position of each row in `order`
    cu_seqlens: Tensor  # int32 [number of windows + 1]
    longest: int  # voxels of the largest window
    sorted_already: bool  # order is 0, 1, 2, ...
    buckets: tuple[Bucket, ...]
    packed: Tensor  # int64 [sum W*L], rows of all buckets, N where padded
    place: Tensor  # int64 [N], position of each row in `packed`


def build_windows(grid: VoxelGrid, size: int, shift: int) -> Windows:
    """Sort the grid's rows by window and pack the windows into padded buckets."""
    if size < 1 or not 0 <= shift < size:
        raise ValueError(f"windows: size {size} and shift {shift} need 0 <= shift < size")
    device, total = grid.device, grid.num_voxels
    ids, order = torch.sort(window_key(grid.coords, size, shift), stable=True)
    _, lengths = torch.unique_consecutive(ids, return_counts=True)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    position = torch.arange(total, device=device)
    inverse = torch.empty_like(order)
    inverse[order] = position
    padded_order = torch.cat([order, order.new_full((1,), total)])

    buckets: list[Bucket] = []
    packed = [order[:0]]
    place = torch.empty_like(order)
    used = 0
    bounds = torch.tensor(BUCKETS, device=device)
    kind = torch.searchsorted(bounds, lengths)  # longer than the last bound: one more bucket
    for number in torch.unique(kind).tolist():
        chosen = torch.nonzero(kind == number)[:, 0]
        size_of = lengths[chosen]
        longest, shortest = int(size_of.max()), int(size_of.min())
        column = torch.arange(longest, device=device)
        real = column[None, :] < size_of[:, None]  # [W, L]
        slot = torch.where(real, starts[chosen][:, None] + column, total)
        rows = padded_order[slot]
        place[rows[real]] = used + torch.nonzero(real.reshape(-1))[:, 0]
        used += rows.numel()
        packed.append(rows.view(-1))
        mask = None if shortest == longest else real[:, None, None, :]
        buckets.append(Bucket(len(chosen), longest, mask))
    return Windows(
        order=order,
        inverse=inverse,
        cu_seqlens=starts.int(),
        longest=int(lengths.max()) if total else 0,
        sorted_already=bool((order == position).all()),
        buckets=tuple(buckets),
        packed=torch.cat(packed),
        place=place,
    )

"""Attention inside windows of voxels, in memory linear in their number.

On a GPU in half precision PyTorch's variable-length attention runs over rows sorted by window.
Everywhere else windows of similar size are padded to a bucket and go through
`scaled_dot_product_attention`. The masked dense softmax below is the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.voxel_order import window_key
from threed_gen.sparse.gather import gather_sum
from threed_gen.sparse.voxel_grid import VoxelGrid
from threed_gen.sparse.windows import Bucket, Windows

HALF = (torch.bfloat16, torch.float16)


def window_attention(qkv: Tensor, windows: Windows) -> Tensor:
    """Softmax attention of every voxel over its own window, scale 1/sqrt(D).

    qkv: [N, 3, H, D]; windows from `VoxelGrid.windows`. Returns [N, H, D].
    """
    assert qkv.ndim == 4 and qkv.shape[1] == 3 and len(qkv) == len(windows.order)
    if not len(qkv):
        return qkv[:, 0]
    if qkv.is_cuda and torch.is_autocast_enabled("cuda"):
        qkv = qkv.to(torch.get_autocast_dtype("cuda"))
    varlen = _varlen() if qkv.is_cuda and qkv.dtype in HALF and qkv.shape[3] % 8 == 0 else None
    return _padded(qkv, windows) if varlen is None else _sorted(qkv, windows, varlen)


def window_attention_reference(qkv: Tensor, grid: VoxelGrid, size: int, shift: int) -> Tensor:
    """The definition: dense softmax over all voxels, other windows masked out. [N, H, D]."""
    q, k, v = qkv.unbind(1)
    ids = window_key(grid.coords, size, shift)
    score = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
    score = score.masked_fill(ids[:, None] != ids[None, :], float("-inf"))
    return torch.einsum("hnm,mhd->nhd", score.softmax(-1), v)


def _padded(qkv: Tensor, windows: Windows) -> Tensor:
    if windows.sorted_already and len(windows.buckets) == 1 and windows.buckets[0].mask is None:
        return _attend(qkv, windows.buckets[0])  # equal windows, in place already
    packed = gather_sum(qkv, windows.packed, windows.place, padded=True)  # [sum W*L, 3, H, D]
    sizes = [bucket.count * bucket.length for bucket in windows.buckets]
    pieces = zip(packed.split(sizes), windows.buckets, strict=True)
    done = torch.cat([_attend(piece, bucket) for piece, bucket in pieces])
    return gather_sum(done, windows.place, windows.packed, padded=True)


def _attend(qkv: Tensor, bucket: Bucket) -> Tensor:
    """[W * L, 3, H, D] -> [W * L, H, D]."""
    windows = qkv.view(bucket.count, bucket.length, *qkv.shape[1:])
    q, k, v = windows.permute(2, 0, 3, 1, 4).unbind(0)  # each [W, H, L, D]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.mask)
    return out.transpose(1, 2).flatten(0, 1)


def _sorted(qkv: Tensor, windows: Windows, varlen: Callable[..., Any]) -> Tensor:
    if not windows.sorted_already:
        qkv = gather_sum(qkv, windows.order, windows.inverse)
    q, k, v = (part.contiguous() for part in qkv.unbind(1))
    cu, longest = windows.cu_seqlens, windows.longest
    out: Tensor = varlen(q, k, v, cu, cu, longest, longest)
    return out if windows.sorted_already else gather_sum(out, windows.inverse, windows.order)


@cache
def _varlen() -> Callable[..., Any] | None:
    """PyTorch's variable-length attention (torch >= 2.10), or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn

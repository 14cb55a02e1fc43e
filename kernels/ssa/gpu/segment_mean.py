"""Means over consecutive rows, one program per run: no scatter, no atomics."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 128  # of one program: 256 in fp32 spill on sm_100


def segment_mean_forward(x: Tensor, starts: Tensor) -> Tensor:
    """Mean of the rows starts[i] to starts[i + 1] of x [N, C]: [runs, C], summed in fp32."""
    runs, width = len(starts) - 1, x.shape[1]
    out = x.new_empty(runs, width)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _mean[(runs, triton.cdiv(width, columns))](
        x, starts, out, width, ROWS=16, COLUMNS=columns, num_warps=4, enable_fp_fusion=True
    )
    return out


def segment_mean_backward(grad: Tensor, starts: Tensor, rows: int) -> Tensor:
    """Gradient of x [rows, C] from that of the means [runs, C]."""
    runs, width = grad.shape
    out = grad.new_empty(rows, width)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _spread[(runs, triton.cdiv(width, columns))](
        grad, starts, out, width, ROWS=16, COLUMNS=columns, num_warps=4, enable_fp_fusion=True
    )
    return out


@triton.jit
def _mean(X, STARTS, OUT, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    run = tl.program_id(0)
    first = tl.load(STARTS + run)
    behind = tl.load(STARTS + run + 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros([COLUMNS], tl.float32)
    for begin in range(first, behind, ROWS):
        row = begin + tl.arange(0, ROWS)
        mask = (row < behind)[:, None] & (column < width)[None, :]
        x = tl.load(X + row.to(tl.int64)[:, None] * width + column[None, :], mask=mask, other=0.0)
        acc += tl.sum(x.to(tl.float32), 0)
    mean = acc / (behind - first)
    to = OUT + run.to(tl.int64) * width + column
    tl.store(to, mean.to(OUT.dtype.element_ty), mask=column < width)


@triton.jit
def _spread(GRAD, STARTS, OUT, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    run = tl.program_id(0)
    first = tl.load(STARTS + run)
    behind = tl.load(STARTS + run + 1)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    grad = tl.load(GRAD + run.to(tl.int64) * width + column, mask=column < width, other=0.0)
    share = (grad.to(tl.float32) / (behind - first)).to(OUT.dtype.element_ty)
    for begin in range(first, behind, ROWS):
        row = begin + tl.arange(0, ROWS)
        mask = (row < behind)[:, None] & (column < width)[None, :]
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(OUT + at, tl.broadcast_to(share[None, :], [ROWS, COLUMNS]), mask=mask)

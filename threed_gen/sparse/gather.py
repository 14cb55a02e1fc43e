"""Sum of gathered rows, with a backward pass that gathers too.

Autograd's own backward of indexing scatters with atomics: slow, and different bits every time on a
GPU. Every index table in this project has its inverse cached beside it, so both directions read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_sum(x: Tensor, index: Tensor, back: Tensor, padded: bool = False) -> Tensor:
    """out[m] = sum_k x[index[m, k]].

    x: [N, ...]; index: int [M] or [M, K]; back: int [N] or [N, K'], the inverse table: the rows m
    that read n. With padded, index N and back M stand for "nothing". Returns [M, ...].
    """
    out = _GatherSum.apply(x, index, back, padded)  # type: ignore[no-untyped-call]
    assert isinstance(out, Tensor)
    return out


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, padded: bool) -> Tensor:
        ctx.save_for_backward(back)
        ctx.padded = padded
        return _gather(x, index, padded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        return _gather(grad, back, ctx.padded), None, None, None


def _gather(x: Tensor, index: Tensor, padded: bool) -> Tensor:
    if padded:
        x = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
    taken = x.index_select(0, index.reshape(-1))
    if index.ndim == 1:
        return taken
    return taken.view(*index.shape, *x.shape[1:]).sum(1)

"""Means over consecutive rows, as pooling into compression cells needs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op


def segment_mean(x_NC: Tensor, starts: Tensor, backend: str = "auto") -> Tensor:
    """Mean of the rows starts[i] to starts[i + 1] of x_NC, [runs, C]; no run may be empty.

    starts: int32 [runs + 1] from 0 to N, such as `plan.cells.starts`. Summed in fp32 at least.
    """
    if x_NC.ndim != 2:
        raise ValueError(f"x_NC: got shape {list(x_NC.shape)}, it must have 2 dimensions")
    if starts.ndim != 1 or starts.dtype != torch.int32:
        kind = f"{starts.dtype} {list(starts.shape)}"
        raise ValueError(f"starts: got {kind}, it must be int32 [runs + 1]")
    if backend == "auto":
        backend = "cpu" if x_NC.device.type == "cpu" else "triton"
    mean: Tensor = _segment_mean(x_NC.contiguous(), starts, backend)
    return mean


@custom_op("threed_gen::segment_mean", mutates_args=())
def _segment_mean(x: Tensor, starts: Tensor, backend: str) -> Tensor:
    if backend == "triton":
        from kernels.ssa.gpu.segment_mean import segment_mean_forward

        return segment_mean_forward(x, starts)
    lengths = starts.long().diff()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean: Tensor = torch.segment_reduce(wide, "sum", lengths=lengths, unsafe=True)
    return (mean / lengths[:, None]).to(x.dtype)


@_segment_mean.register_fake
def _(x: Tensor, starts: Tensor, backend: str) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[1])


@custom_op("threed_gen::segment_mean_backward", mutates_args=())
def _segment_mean_backward(grad: Tensor, starts: Tensor, rows: int, backend: str) -> Tensor:
    if backend == "triton":
        from kernels.ssa.gpu.segment_mean import segment_mean_backward

        return segment_mean_backward(grad.contiguous(), starts, rows)
    lengths = starts.long().diff()
    return (grad / lengths[:, None]).repeat_interleave(lengths, dim=0, output_size=rows)


@_segment_mean_backward.register_fake
def _(grad: Tensor, starts: Tensor, rows: int, backend: str) -> Tensor:
    return grad.new_empty(rows, grad.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, starts, ctx.backend = inputs
    ctx.rows = x.shape[0]
    ctx.save_for_backward(starts)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (starts,) = ctx.saved_tensors
    return _segment_mean_backward(grad, starts, ctx.rows, ctx.backend), None, None


_segment_mean.register_autograd(_differentiate, setup_context=_keep)

"""Fast sparse convolution in plain PyTorch, for CPU and GPU: gather neighbours, one GEMM, repeat.

A chunk of output rows gathers all its taps into one buffer [rows, T*C] and multiplies it with the
whole kernel [T*C, D]. The gradient of the input is the same operation with the mirrored map, so
nothing is ever scattered and the result is the same bits every time. Chunks keep the buffer in the
processor's cache (CPU) or below a fixed size (GPU). Half precision accumulates in fp32.

`upsample_conv` is the convolution of voxels that were just copied to all their children, computed
on the parents: 8 taps instead of 27, no neighbour map of the fine grid, exactly the same sum.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.sparse_conv.gemm import ROWS, add_outer, multiply
from kernels.sparse_conv.plan import KERNEL_VOLUME, upsample_taps

CPU_BUFFER_BYTES = 1 << 21
GPU_BUFFER_BYTES = 1 << 29


def submanifold_conv(x: Tensor, kernel: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """out(p) = bias + sum_k x(p + offset_k) @ kernel[k].

    x: [N, C]; kernel: [27, C, D]; bias: [D] or None; rows: int32 [N, 27] from `neighbour_rows`.
    Returns [N, D]. Under torch.autocast it computes in the autocast dtype.
    """
    assert rows.shape == (x.shape[0], KERNEL_VOLUME)
    assert kernel.shape[:2] == (KERNEL_VOLUME, x.shape[1])
    x, kernel, bias = _autocast(x, kernel, bias)
    return _apply(x, kernel, bias, rows[None], rows, True)


def upsample_conv(
    x: Tensor, kernel: Tensor, bias: Tensor | None, forward: Tensor, backward: Tensor
) -> Tensor:
    """Submanifold convolution of the complete children of x, each a copy of its parent.

    x: [M, C] on the parents; kernel: [27, C, D]; forward, backward from `upsample_rows`.
    Returns [8 * M, D], child-major: row c * M + m is child c of parent m.
    """
    parents, channels = x.shape
    assert forward.shape == (8, parents, 8) and backward.shape == (parents, 64)
    assert kernel.shape[:2] == (KERNEL_VOLUME, channels)
    fold = _fold(x.device, kernel.dtype)
    with _no_autocast(x.device.type):  # taps are added in the kernel's own dtype
        folded = (fold @ kernel.reshape(KERNEL_VOLUME, -1)).view(64, channels, -1)
    x, folded, bias = _autocast(x, folded, bias)
    return _apply(x, folded, bias, forward, backward, False)


@cache
def _fold(device: torch.device, dtype: torch.dtype) -> Tensor:
    return upsample_taps()[1].to(device, dtype)


def _autocast(
    x: Tensor, kernel: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    device = x.device.type
    dtype = x.dtype
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if x.dtype == torch.float64:
        dtype = x.dtype  # as PyTorch's own operators: autocast leaves float64 alone
    return x.to(dtype), kernel.to(dtype), None if bias is None else bias.to(dtype)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device):  # the meta device
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _apply(
    x: Tensor, kernel: Tensor, bias: Tensor | None, index: Tensor, back: Tensor, mirrored: bool
) -> Tensor:
    with _no_autocast(x.device.type):
        out: Tensor = _gather_gemm(x, kernel, bias, index, back, mirrored)
    return out


@custom_op("threed_gen::gather_gemm", mutates_args=())
def _gather_gemm(
    x: Tensor,  # [N, C]
    kernel: Tensor,  # [P*T, C, D]
    bias: Tensor | None,  # [D]
    index: Tensor,  # [P, M, T]
    back: Tensor,  # [N, P*T]
    mirrored: bool,
) -> Tensor:
    """out[p * M + m] = bias + sum_t x[index[p, m, t]] @ kernel[p * T + t]; index == N reads zeros.

    `back` [N, P*T] lists, for every input row, the output rows that read it through (p, t), with
    P*M for none; with `mirrored` (P = 1) its columns are in the order of descending t. An operator
    of its own, so that `torch.compile` does not look inside (a loop over chunks, one per size).
    """
    phases, rows, _ = index.shape
    width = kernel.shape[2]
    out = x.new_empty(phases * rows, width)
    padded = _pad(x)
    flat = kernel.reshape(phases, -1, width)  # [P, T*C, D]
    for p in range(phases):
        _gather_multiply(padded, index[p], flat[p], bias, out[p * rows : (p + 1) * rows])
    return out


@_gather_gemm.register_fake
def _(x: Tensor, kernel: Tensor, bias: Tensor | None, index: Tensor, *_rest: Any) -> Tensor:
    return x.new_empty(index.shape[0] * index.shape[1], kernel.shape[2])


@custom_op("threed_gen::gather_gemm_input_grad", mutates_args=())
def _input_gradient(grad: Tensor, kernel: Tensor, back: Tensor, mirrored: bool) -> Tensor:
    turned = (kernel.flip(0) if mirrored else kernel).transpose(1, 2)
    out = grad.new_empty(back.shape[0], kernel.shape[1])
    _gather_multiply(_pad(grad), back, turned.reshape(-1, out.shape[1]), None, out)
    return out


@_input_gradient.register_fake
def _(grad: Tensor, kernel: Tensor, back: Tensor, mirrored: bool) -> Tensor:
    return grad.new_empty(back.shape[0], kernel.shape[1])


@custom_op("threed_gen::gather_gemm_kernel_grad", mutates_args=())
def _kernel_gradient(grad: Tensor, x: Tensor, index: Tensor) -> Tensor:
    phases, rows, taps = index.shape
    padded = _pad(x)
    sums = [
        _weight_gradient(padded, index[p], grad[p * rows : (p + 1) * rows]) for p in range(phases)
    ]
    return torch.stack(sums).view(phases * taps, x.shape[1], -1).to(grad.dtype)


@_kernel_gradient.register_fake
def _(grad: Tensor, x: Tensor, index: Tensor) -> Tensor:
    return grad.new_empty(index.shape[0] * index.shape[2], x.shape[1], grad.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, _, index, back, ctx.mirrored = inputs
    ctx.save_for_backward(x, kernel, index, back)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel, index, back = ctx.saved_tensors
    needs_x, needs_kernel, needs_bias = ctx.needs_input_grad[:3]
    grad = grad.contiguous()
    return (
        _input_gradient(grad, kernel, back, ctx.mirrored) if needs_x else None,
        _kernel_gradient(grad, x, index) if needs_kernel else None,
        grad.sum(0, dtype=_wide(grad.dtype)).to(grad.dtype) if needs_bias else None,
        None,
        None,
        None,
    )


_gather_gemm.register_autograd(_differentiate, setup_context=_keep)


def _gather_multiply(
    padded: Tensor, index: Tensor, flat: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """out[m] = bias + concat_t(padded[index[m, t]]) @ flat, chunk by chunk, in place."""
    rows, taps = index.shape
    step, buffer = _buffer(padded, rows, taps)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        taken = _gather(padded, index[start:stop], buffer)
        multiply(taken, flat, bias, out[start:stop])


def _weight_gradient(padded: Tensor, index: Tensor, grad: Tensor) -> Tensor:
    """sum_m concat_t(padded[index[m, t]])ᵀ grad[m], accumulated in fp32 or wider. [T*C, D]."""
    rows, taps = index.shape
    total = padded.new_zeros(grad.shape[1], taps * padded.shape[1], dtype=_wide(padded.dtype))
    step, buffer = _buffer(padded, rows, taps)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        taken = _gather(padded, index[start:stop], buffer)
        add_outer(total, grad[start:stop], taken)
    return total.t()


def _gather(padded: Tensor, index: Tensor, buffer: Tensor) -> Tensor:
    rows, taps = index.shape
    target = buffer[: rows * taps]
    torch.index_select(padded, 0, index.reshape(-1), out=target)
    return target.view(rows, taps * padded.shape[1])


def _buffer(padded: Tensor, rows: int, taps: int) -> tuple[int, Tensor]:
    """Rows per chunk, and a buffer [chunk * T, C] for them."""
    limit = CPU_BUFFER_BYTES if padded.device.type == "cpu" else GPU_BUFFER_BYTES
    step = limit // max(1, taps * padded.shape[1] * padded.element_size())
    step = min(max(step // ROWS, 4) * ROWS, max(rows, 1))
    return step, padded.new_empty(step * taps, padded.shape[1])


def _pad(x: Tensor) -> Tensor:
    """x with a row of zeros behind it, which is what absent neighbours read."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype

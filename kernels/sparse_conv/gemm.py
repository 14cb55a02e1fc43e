"""Matrix products of the gather-GEMM, on CPU through oneDNN where that pays.

PyTorch sends fp32 products on CPU to MKL, which uses half the vector width on AMD processors;
oneDNN, shipped in the same wheel, is 2.4 times as fast there and as fast on Intel. It compiles a
kernel per shape (0.5 ms), so only row counts that are multiples of 64 go there: few shapes, all
soon compiled. The few rows left over, other dtypes and devices use `torch.mm`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

ROWS = 64


@cache
def _onednn() -> Callable[..., Any] | None:
    """oneDNN's linear(x, weight, bias, ...) if this build of PyTorch has it."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        return torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        return None


def _fast_rows(a: Tensor) -> tuple[int, Callable[..., Any] | None]:
    """How many leading rows of `a` go through oneDNN, and its function."""
    linear = _onednn() if a.device.type == "cpu" and a.dtype == torch.float32 else None
    return (a.shape[0] // ROWS * ROWS if linear is not None else 0), linear


def multiply(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = a @ b + bias, in place. a: [M, K]; b: [K, D]; bias: [D]; out: [M, D]."""
    fast, linear = _fast_rows(a)
    if fast and linear is not None:
        out[:fast] = linear(a[:fast], b.t(), bias, "none", [], "")
    if fast < a.shape[0]:
        if bias is None:
            torch.mm(a[fast:], b, out=out[fast:])
        else:
            torch.addmm(bias, a[fast:], b, out=out[fast:])


def add_outer(total: Tensor, g: Tensor, a: Tensor) -> None:
    """total += gᵀ @ a, in total's dtype. total: [D, K]; g: [M, D]; a: [M, K]."""
    fast, linear = _fast_rows(a)
    if fast and linear is not None:
        total += linear(g[:fast].t(), a[:fast].t(), None, "none", [], "")
    if fast < a.shape[0]:
        if total.dtype == a.dtype:
            total.addmm_(g[fast:].t(), a[fast:])
        else:
            total += torch.mm(g[fast:].t(), a[fast:])

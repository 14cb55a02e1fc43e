"""The gated sum of the three branches, and its gradient, in one pass over memory each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 4  # tokens of one program


def combine_forward(compressed: Tensor, selected: Tensor, near: Tensor, gates: Tensor) -> Tensor:
    """gates[:, 0]·compressed + gates[:, 1]·selected + gates[:, 2]·near, [N, H, D]."""
    out = torch.empty_like(compressed)
    tokens, width = len(out), out.shape[1] * out.shape[2]
    _combine[(triton.cdiv(tokens, TOKENS),)](
        compressed, selected, near, gates, out, tokens, width,
        TOKENS=TOKENS, WIDTH=_step(width), enable_fp_fusion=True,
    )  # fmt: skip
    return out


def combine_backward(
    grad: Tensor, compressed: Tensor, selected: Tensor, near: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the three branches [N, H, D] and of the gates [N, 3]."""
    da, db, dc = (torch.empty_like(grad) for _ in range(3))
    dgates = torch.empty_like(gates)
    tokens, width = len(grad), grad.shape[1] * grad.shape[2]
    _combine_backward[(triton.cdiv(tokens, TOKENS),)](
        grad, compressed, selected, near, gates, da, db, dc, dgates, tokens, width,
        TOKENS=TOKENS, WIDTH=_step(width), enable_fp_fusion=True,
    )  # fmt: skip
    return da, db, dc, dgates


def _step(width: int) -> int:
    return min(1024, triton.next_power_of_2(width))


@triton.jit(do_not_specialize=["tokens"])
def _combine(A, B, C, GATES, OUT, tokens, width, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = token < tokens
    a, b, c = _gates(GATES, token, there)
    for begin in range(0, width, WIDTH):
        column = begin + tl.arange(0, WIDTH)
        at = token.to(tl.int64)[:, None] * width + column[None, :]
        mask = there[:, None] & (column < width)[None, :]
        out = a * tl.load(A + at, mask=mask).to(tl.float32)
        out += b * tl.load(B + at, mask=mask).to(tl.float32)
        out += c * tl.load(C + at, mask=mask).to(tl.float32)
        tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens"])
def _combine_backward(
    GRAD, A, B, C, GATES, DA, DB, DC, DGATES, tokens, width,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = token < tokens
    a, b, c = _gates(GATES, token, there)
    da = tl.zeros([TOKENS], tl.float32)
    db = tl.zeros([TOKENS], tl.float32)
    dc = tl.zeros([TOKENS], tl.float32)
    for begin in range(0, width, WIDTH):
        column = begin + tl.arange(0, WIDTH)
        at = token.to(tl.int64)[:, None] * width + column[None, :]
        mask = there[:, None] & (column < width)[None, :]
        grad = tl.load(GRAD + at, mask=mask, other=0.0).to(tl.float32)
        da += tl.sum(grad * tl.load(A + at, mask=mask, other=0.0).to(tl.float32), 1)
        db += tl.sum(grad * tl.load(B + at, mask=mask, other=0.0).to(tl.float32), 1)
        dc += tl.sum(grad * tl.load(C + at, mask=mask, other=0.0).to(tl.float32), 1)
        tl.store(DA + at, (a * grad).to(DA.dtype.element_ty), mask=mask)
        tl.store(DB + at, (b * grad).to(DB.dtype.element_ty), mask=mask)
        tl.store(DC + at, (c * grad).to(DC.dtype.element_ty), mask=mask)
    to = DGATES + token.to(tl.int64) * 3
    tl.store(to, da.to(DGATES.dtype.element_ty), mask=there)
    tl.store(to + 1, db.to(DGATES.dtype.element_ty), mask=there)
    tl.store(to + 2, dc.to(DGATES.dtype.element_ty), mask=there)


@triton.jit
def _gates(GATES, token, there):
    at = GATES + token.to(tl.int64) * 3
    a = tl.load(at, mask=there, other=0.0).to(tl.float32)
    b = tl.load(at + 1, mask=there, other=0.0).to(tl.float32)
    c = tl.load(at + 2, mask=there, other=0.0).to(tl.float32)
    return a[:, None], b[:, None], c[:, None]

"""The branches as operators of PyTorch: opaque to tracing, with gradients and shapes of their own.

Registered with `torch.library`, so `torch.compile` passes through without a break, the meta device
works, and activation checkpointing can name them: what `select_blocks` chose is to be kept
(`KEPT_OPS`), so that recomputation reads the same blocks. A plan travels as a list of tensors and a
list of integers, which is all that an operator's signature allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.ssa import cpu
from kernels.ssa.packing import pack, unpack
from kernels.ssa.plan import SSAPlan

Tables = Sequence[Tensor]
Sizes = Sequence[int]


def compression(
    q: Tensor, k_cmp: Tensor, v_cmp: Tensor, plan: SSAPlan, backend: str
) -> tuple[Tensor, Tensor]:
    """Attention over the cells of the own sample: [N, H, D], natural LSE [N, H]."""
    out, lse = _attention(q, k_cmp, v_cmp, _none(q), *pack(plan), "compression", backend)
    return out, lse


def select_blocks(
    q: Tensor, k_cmp: Tensor, lse: Tensor, plan: SSAPlan, top_k: int, backend: str
) -> Tensor:
    """The blocks that each query chooses: int32 [N, G, top_k], ascending, -1 behind."""
    q, k_cmp, lse = q.detach(), k_cmp.detach(), lse.detach()
    blocks: Tensor = _select_blocks(q, k_cmp, lse, *pack(plan), top_k, backend)
    return blocks


def selection(
    q: Tensor, k: Tensor, v: Tensor, blocks_NGk: Tensor, plan: SSAPlan, backend: str
) -> Tensor:
    """Attention over the tokens of the chosen blocks, [N, H, D]."""
    out: Tensor = _attention(q, k, v, blocks_NGk, *pack(plan), "selection", backend)[0]
    return out


def window(q: Tensor, k: Tensor, v: Tensor, plan: SSAPlan, backend: str) -> Tensor:
    """Attention over the tokens of the own window, [N, H, D]."""
    out: Tensor = _attention(q, k, v, _none(q), *pack(plan), "window", backend)[0]
    return out


def combine(
    compressed: Tensor, selected: Tensor, near: Tensor, gates_N3: Tensor, backend: str
) -> Tensor:
    """The branches added up by their gates, [N, H, D]."""
    out: Tensor = _combine(compressed, selected, near, gates_N3, backend)
    return out


def _implementation(backend: str, q: Tensor) -> ModuleType:
    if backend == "cpu":
        return cpu
    from kernels.ssa.gpu import branches, limits  # need Triton, which is not everywhere

    limits.check_supported(q)
    return branches


def _none(q: Tensor) -> Tensor:
    return q.new_empty(0, dtype=torch.int32)


# --- attention of one branch ---------------------------------------------------------------------


@custom_op("threed_gen::ssa_attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, tables: Tables, sizes: Sizes, branch: str,
    backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    run = getattr(_implementation(backend, q), f"{branch}_forward")
    chosen = (blocks,) if branch == "selection" else ()
    out, lse = run(q, k, v, *chosen, unpack(tables, sizes))
    return out, lse


@_attention.register_fake
def _(q: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    return torch.empty_like(q), lse


@custom_op("threed_gen::ssa_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, blocks: Tensor,
    tables: Tables, sizes: Sizes, branch: str, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    run = getattr(_implementation(backend, q), f"{branch}_backward")
    chosen = (blocks,) if branch == "selection" else ()
    dq, dk, dv = run(grad.contiguous(), q, k, v, out, lse, *chosen, unpack(tables, sizes))
    return dq, dk, dv


@_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, blocks, tables, ctx.sizes, ctx.branch, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, blocks, *output, *tables)


def _differentiate_attention(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    q, k, v, blocks, out, lse, *tables = ctx.saved_tensors
    dq, dk, dv = _attention_backward(
        grad, q, k, v, out, lse, blocks, tables, ctx.sizes, ctx.branch, ctx.backend
    )
    return dq, dk, dv, None, [None] * len(tables), None, None, None


_attention.register_autograd(_differentiate_attention, setup_context=_keep_attention)


# --- choice of blocks ----------------------------------------------------------------------------


@custom_op("threed_gen::ssa_select_blocks", mutates_args=())
def _select_blocks(
    q: Tensor, k: Tensor, lse: Tensor, tables: Tables, sizes: Sizes, top_k: int, backend: str
) -> Tensor:
    run = _implementation(backend, q).select_blocks
    blocks: Tensor = run(q, k, lse, unpack(tables, sizes), top_k)
    return blocks


@_select_blocks.register_fake
def _(
    q: Tensor, k: Tensor, lse: Tensor, tables: Tables, sizes: Sizes, top_k: int, backend: str
) -> Tensor:
    return q.new_empty(q.shape[0], k.shape[1], top_k, dtype=torch.int32)


KEPT_OPS = (torch.ops.threed_gen.ssa_select_blocks.default,)


# --- gates ---------------------------------------------------------------------------------------


@custom_op("threed_gen::ssa_combine", mutates_args=())
def _combine(a: Tensor, b: Tensor, c: Tensor, gates: Tensor, backend: str) -> Tensor:
    out: Tensor = _implementation(backend, a).combine_forward(a, b, c, gates)
    return out


@_combine.register_fake
def _(a: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(a)


@custom_op("threed_gen::ssa_combine_backward", mutates_args=())
def _combine_backward(
    grad: Tensor, a: Tensor, b: Tensor, c: Tensor, gates: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = _implementation(backend, a).combine_backward
    da, db, dc, dgates = run(grad.contiguous(), a, b, c, gates)
    return da, db, dc, dgates


@_combine_backward.register_fake
def _(
    grad: Tensor, a: Tensor, b: Tensor, c: Tensor, gates: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(b), torch.empty_like(c), torch.empty_like(gates)


def _keep_combine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *branches, ctx.backend = inputs
    ctx.save_for_backward(*branches)


def _differentiate_combine(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_combine_backward(grad, *ctx.saved_tensors, ctx.backend), None)


_combine.register_autograd(_differentiate_combine, setup_context=_keep_combine)

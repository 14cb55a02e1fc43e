"""The three branches on Triton kernels: the same functions as `kernels.ssa.cpu`."""

from __future__ import annotations

from torch import Tensor

from kernels.ssa.gpu.gates import combine_backward, combine_forward
from kernels.ssa.gpu.lists import selection_readers, selection_walk
from kernels.ssa.gpu.readers import readers_backward
from kernels.ssa.gpu.shapes import chosen_heads, dense_heads
from kernels.ssa.gpu.topk import best_blocks
from kernels.ssa.gpu.walk import walk_backward, walk_forward
from kernels.ssa.plan import SSAPlan
from kernels.ssa.tables import DenseTables

__all__ = [
    "combine_backward", "combine_forward", "compression_backward", "compression_forward",
    "select_blocks", "selection_backward", "selection_forward", "window_backward", "window_forward",
]  # fmt: skip

READERS_SHARE = 2048  # queries per work item of a block that was chosen by many

select_blocks = best_blocks


def compression_forward(
    q: Tensor, k_cmp: Tensor, v_cmp: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor]:
    """Attention over the cells of the own sample: [N, H, D], natural LSE [N, H]."""
    return _dense_forward(q, k_cmp, v_cmp, plan.compression)


def compression_backward(
    grad: Tensor, q: Tensor, k_cmp: Tensor, v_cmp: Tensor, out: Tensor, lse: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k_cmp, v_cmp."""
    return _dense_backward(grad, q, k_cmp, v_cmp, out, lse, plan.compression)


def selection_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks_NGk: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of the chosen blocks: [N, H, D], natural LSE [N, H]."""
    heads = chosen_heads(q, k)
    return walk_forward(q, k, v, selection_walk(blocks_NGk, plan, heads.queries), heads)


def selection_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, blocks_NGk: Tensor,
    plan: SSAPlan,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v."""
    heads = chosen_heads(q, k)
    walk = selection_walk(blocks_NGk, plan, heads.queries)
    dq, delta = walk_backward(q, k, v, out, lse, grad, walk, heads)
    readers = selection_readers(blocks_NGk, plan, READERS_SHARE)
    return dq, *readers_backward(q, k, v, lse, delta, grad, readers)


def window_forward(q: Tensor, k: Tensor, v: Tensor, plan: SSAPlan) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of the own window: [N, H, D], natural LSE [N, H]."""
    q, k, v = plan.near.sort(q, k, v)
    out, lse = plan.near.restore(*_dense_forward(q, k, v, plan.near.dense))
    return out, lse


def window_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v."""
    grad, q, k, v, out, lse = plan.near.sort(grad, q, k, v, out, lse)
    grads = _dense_backward(grad, q, k, v, out, lse, plan.near.dense)
    dq, dk, dv = plan.near.restore(*grads)
    return dq, dk, dv


def _dense_forward(q: Tensor, k: Tensor, v: Tensor, tables: DenseTables) -> tuple[Tensor, Tensor]:
    heads = dense_heads(q, k)
    return walk_forward(q, k, v, tables.walk(heads.queries), heads)


def _dense_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, tables: DenseTables
) -> tuple[Tensor, Tensor, Tensor]:
    heads = dense_heads(q, k)
    dq, delta = walk_backward(q, k, v, out, lse, grad, tables.walk(heads.queries), heads)
    return dq, *readers_backward(q, k, v, lse, delta, grad, tables.readers)

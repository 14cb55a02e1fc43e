"""Spatial Sparse Attention for CPUs: trains, in memory linear in the number of tokens.

Every branch is a list of pieces, each a set of queries that all read one run of keys: chunks of a
sample for the compression, the readers of a block for the selection, a window for itself. A piece
is two matrix products; what a query got from several pieces is merged as softmaxes are. Backward
passes recompute the probabilities from the saved log-sum-exp. The Triton kernels of
`kernels.ssa.gpu.branches` have the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.ssa.plan import SSAPlan

LOGITS_AT_ONCE = 1 << 20  # numbers in the compression branch's temporaries: a cache holds them

# KV group, the queries of the piece, the keys they read
Piece = tuple[int, slice | Tensor, slice]


def compression_forward(
    q: Tensor, k_cmp: Tensor, v_cmp: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor]:
    """Attention over the cells of the own sample: [N, H, D], natural LSE [N, H]."""
    return _forward(q, k_cmp, v_cmp, _chunks(plan, q.shape[1], k_cmp.shape[1]))


def compression_backward(
    grad: Tensor, q: Tensor, k_cmp: Tensor, v_cmp: Tensor, out: Tensor, lse: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k_cmp, v_cmp."""
    return _backward(grad, q, k_cmp, v_cmp, out, lse, _chunks(plan, q.shape[1], k_cmp.shape[1]))


def select_blocks(q: Tensor, k_cmp: Tensor, lse: Tensor, plan: SSAPlan, top_k: int) -> Tensor:
    """The blocks that each query chooses: int32 [N, G, top_k], ascending, -1 behind."""
    groups = k_cmp.shape[1]
    blocks = torch.full((len(q), groups, top_k), -1, dtype=torch.int32)
    first_block = plan.blocks.of_sample.tolist()
    sample = 0
    for g, rows, cells in _chunks(plan, q.shape[1], groups):
        assert isinstance(rows, slice)
        while plan.cu_seqlens[sample + 1] <= rows.start:
            sample += 1
        first, behind = first_block[sample : sample + 2]
        heads = _heads(q, g, groups)
        logits = _logits(q[rows, heads].to(lse.dtype), k_cmp[cells, g].to(lse.dtype))
        score = torch.exp(logits - lse[rows, heads][:, :, None]).sum(1)  # [n, cells]
        if plan.cells.count != plan.blocks.count:
            of_cell = plan.block_of_cell[cells].long() - first
            score = score.new_zeros(len(score), behind - first).index_add_(1, of_cell, score)
        best = score.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        blocks[rows, g, : best.shape[1]] = (best.sort(dim=1).values + first).int()
    return blocks


def selection_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks_NGk: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of the chosen blocks: [N, H, D], natural LSE [N, H]."""
    return _forward(q, k, v, _readers(blocks_NGk, plan))


def selection_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, blocks_NGk: Tensor,
    plan: SSAPlan,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v."""
    return _backward(grad, q, k, v, out, lse, _readers(blocks_NGk, plan))


def window_forward(q: Tensor, k: Tensor, v: Tensor, plan: SSAPlan) -> tuple[Tensor, Tensor]:
    """Attention over the tokens of the own window: [N, H, D], natural LSE [N, H]."""
    q, k, v = plan.near.sort(q, k, v)
    out, lse = plan.near.restore(*_forward(q, k, v, _windows(plan, k.shape[1])))
    return out, lse


def window_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v."""
    grad, q, k, v, out, lse = plan.near.sort(grad, q, k, v, out, lse)
    grads = _backward(grad, q, k, v, out, lse, _windows(plan, k.shape[1]))
    dq, dk, dv = plan.near.restore(*grads)
    return dq, dk, dv


def combine_forward(compressed: Tensor, selected: Tensor, near: Tensor, gates: Tensor) -> Tensor:
    """gates[:, 0]·compressed + gates[:, 1]·selected + gates[:, 2]·near, [N, H, D]."""
    a, b, c = gates[:, :, None, None].unbind(1)
    return torch.addcmul(torch.addcmul(a * compressed, b, selected), c, near)


def combine_backward(
    grad: Tensor, compressed: Tensor, selected: Tensor, near: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the three branches [N, H, D] and of the gates [N, 3]."""
    a, b, c = gates[:, :, None, None].unbind(1)
    dgates = [(grad * branch).sum((1, 2)) for branch in (compressed, selected, near)]
    return a * grad, b * grad, c * grad, torch.stack(dgates, 1)


def _forward(q: Tensor, k: Tensor, v: Tensor, pieces: Iterator[Piece]) -> tuple[Tensor, Tensor]:
    """Attention over pieces: [N, H, D], natural LSE [N, H]; zeros where a query has no piece."""
    kind, groups = torch.promote_types(q.dtype, torch.float32), k.shape[1]
    out = torch.zeros_like(q, dtype=kind)
    top = torch.full(q.shape[:2], float("-inf"), dtype=kind)  # running maximum
    total = torch.zeros_like(top)  # running sum of exponentials
    for g, rows, keys in pieces:
        heads = _heads(q, g, groups)
        logits = _logits(q[rows, heads].to(kind), k[keys, g].to(kind))  # [n, H/G, keys]
        old = top[rows, heads]
        new = torch.maximum(old, logits.amax(2))
        share = torch.exp(logits - new[:, :, None])
        keep = torch.exp(old - new)
        total[rows, heads] = total[rows, heads] * keep + share.sum(2)
        part = share.flatten(0, 1) @ v[keys, g].to(kind)
        out[rows, heads] = out[rows, heads] * keep[:, :, None] + part.unflatten(0, new.shape)
        top[rows, heads] = new
    out /= torch.where(total == 0, 1.0, total)[:, :, None]
    return out.to(q.dtype), top + torch.log(total)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, pieces: Iterator[Piece]
) -> tuple[Tensor, Tensor, Tensor]:
    kind, groups, scale = lse.dtype, k.shape[1], q.shape[2] ** -0.5
    dq, dk, dv = (torch.zeros_like(x, dtype=kind) for x in (q, k, v))
    delta = (grad.to(kind) * out).sum(2)  # [N, H]
    for g, rows, keys in pieces:
        heads = _heads(q, g, groups)
        key, value = k[keys, g].to(kind), v[keys, g].to(kind)
        flat, do = (x[rows, heads].flatten(0, 1).to(kind) for x in (q, grad))
        share = torch.exp((flat @ key.T) * scale - lse[rows, heads].flatten()[:, None])
        dlogits = share * (do @ value.T - delta[rows, heads].flatten()[:, None]) * scale
        part = (dlogits @ key).unflatten(0, (-1, heads.stop - heads.start))
        dq[rows, heads] += part
        dk[keys, g] += dlogits.T @ flat
        dv[keys, g] += share.T @ do
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _logits(q: Tensor, k: Tensor) -> Tensor:
    """q·k / sqrt(D) of queries [n, heads, D] and the keys [m, D] of their group, [n, heads, m]."""
    return ((q.flatten(0, 1) @ k.T) * q.shape[2] ** -0.5).unflatten(0, q.shape[:2])


def _heads(q: Tensor, group: int, groups: int) -> slice:
    share = q.shape[1] // groups
    return slice(group * share, (group + 1) * share)


def _chunks(plan: SSAPlan, heads: int, groups: int) -> Iterator[Piece]:
    """Rows of one sample at a time and the cells of that sample, ascending."""
    rows, cells = plan.cu_seqlens.tolist(), plan.cells.of_sample.tolist()
    for b in range(plan.batch_size):
        step = max(1, LOGITS_AT_ONCE * groups // max(1, heads * (cells[b + 1] - cells[b])))
        for start in range(rows[b], rows[b + 1], step):
            for g in range(groups):
                yield g, slice(start, min(start + step, rows[b + 1])), slice(*cells[b : b + 2])


def _readers(blocks_NGk: Tensor, plan: SSAPlan) -> Iterator[Piece]:
    """The rows that chose a block and the rows of the block, ascending in group and block."""
    starts = plan.blocks.starts.tolist()
    for g, chosen in enumerate(blocks_NGk.unbind(1)):
        number, order = torch.sort(chosen.flatten(), stable=True)
        block = torch.arange(plan.blocks.count + 1, dtype=number.dtype)
        bounds = torch.searchsorted(number, block).tolist()
        row = order // chosen.shape[1]
        for b, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if last > first:
                yield g, row[first:last], slice(starts[b], starts[b + 1])


def _windows(plan: SSAPlan, groups: int) -> Iterator[Piece]:
    """Windows, in the order of their table."""
    starts = plan.near.starts.tolist()
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        for g in range(groups):
            yield g, slice(a, b), slice(a, b)

"""Spatial Sparse Attention for CPUs: trains, in memory linear in the number of tokens.

Compression and the choice of blocks go over queries in chunks, and share one softmax. Selection
goes over *blocks*: the queries that chose a block are gathered, attend to it together in one
matrix product, and the results of a query's blocks are merged as softmaxes are. Windows are runs
of rows and go through `scaled_dot_product_attention`. Backward passes recompute the probabilities
from the saved log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.ssa.plan import SSAPlan

LOGITS_AT_ONCE = 1 << 23  # numbers in the largest temporary of the compression branch


def ssa_cpu(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, k_cmp_MGD: Tensor, v_cmp_MGD: Tensor,
    gates_N3: Tensor, plan: SSAPlan, top_k: int,
) -> Tensor:  # fmt: skip
    """The same as `ssa_reference`, [N, H, D]."""
    compressed, blocks = _Compress.apply(  # type: ignore[no-untyped-call]
        q_NHD, k_cmp_MGD, v_cmp_MGD, plan, top_k
    )
    out = gates_N3[:, 0, None, None] * compressed
    selected = _Select.apply(q_NHD, k_NGD, v_NGD, blocks, plan)  # type: ignore[no-untyped-call]
    out = out + gates_N3[:, 1, None, None] * selected
    return out + gates_N3[:, 2, None, None] * _window(q_NHD, k_NGD, v_NGD, plan)


class _Compress(torch.autograd.Function):
    """Attention over compressed keys and, from the same probabilities, the best blocks."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: SSAPlan, top_k: int
    ) -> tuple[Tensor, Tensor]:
        groups = k.shape[1]
        out = torch.empty_like(q)
        blocks = torch.full((len(q), groups, top_k), -1, dtype=torch.int64)
        lse = q.new_empty(groups, len(q), q.shape[1] // groups)
        for rows, cells, chosen in _chunks(plan, q.shape[1]):
            first, count = chosen.start, chosen.stop - chosen.start
            of_cell = plan.block_of_cell[cells].long() - first
            for g in range(groups):
                heads = _heads(q, g, groups)
                flat = q[rows, heads].flatten(0, 1)  # [n · H/G, D]
                logits = (flat @ k[cells, g].T) * q.shape[2] ** -0.5
                top = torch.logsumexp(logits, dim=1)
                share = torch.exp(logits - top[:, None])
                lse[g, rows] = top.unflatten(0, (_length(rows), -1))
                out[rows, heads] = (share @ v[cells, g]).unflatten(0, (_length(rows), -1))
                score = share.unflatten(0, (_length(rows), -1)).sum(1)  # [n, cells]
                if plan.cells is not plan.blocks:
                    score = score.new_zeros(len(score), count).index_add_(1, of_cell, score)
                best = score.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
                blocks[rows, g, : best.shape[1]] = best.sort(dim=1).values + first
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan = plan
        ctx.mark_non_differentiable(blocks)
        return out, blocks

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grads[0]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = (grad * out).sum(2)  # [N, H]
        groups = k.shape[1]
        for rows, cells, _ in _chunks(ctx.plan, q.shape[1]):
            for g in range(groups):
                heads = _heads(q, g, groups)
                flat, do = q[rows, heads].flatten(0, 1), grad[rows, heads].flatten(0, 1)
                dflat, dkey, dvalue = _backward(
                    flat, k[cells, g], v[cells, g], do,
                    lse[g, rows].flatten(), delta[rows, heads].flatten(),
                )  # fmt: skip
                dq[rows, heads] = dflat.unflatten(0, (_length(rows), -1))
                dk[cells, g] += dkey
                dv[cells, g] += dvalue
        return dq, dk, dv, None, None


class _Select(torch.autograd.Function):
    """Attention over the tokens of each query's blocks, block by block."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, plan: SSAPlan) -> Tensor:
        out = torch.zeros_like(q)
        top = q.new_full(q.shape[:2], float("-inf"))  # running maximum [N, H]
        total = torch.zeros_like(top)  # running sum of exponentials
        for g, rows, keys in _readers(blocks, plan):
            heads = _heads(q, g, k.shape[1])
            flat = q[rows, heads].flatten(0, 1)
            logits = ((flat @ k[keys, g].T) * q.shape[2] ** -0.5).unflatten(0, (len(rows), -1))
            old = top[rows, heads]
            new = torch.maximum(old, logits.amax(2))
            share = torch.exp(logits - new[:, :, None])
            keep = torch.exp(old - new)
            total[rows, heads] = total[rows, heads] * keep + share.sum(2)
            out[rows, heads] = out[rows, heads] * keep[:, :, None] + share @ v[keys, g]
            top[rows, heads] = new
        out /= total[:, :, None]
        ctx.save_for_backward(q, k, v, out, top + torch.log(total), blocks)
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse, blocks = ctx.saved_tensors
        grad = grads[0]
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = (grad * out).sum(2)
        for g, rows, keys in _readers(blocks, ctx.plan):
            heads = _heads(q, g, k.shape[1])
            flat, do = q[rows, heads].flatten(0, 1), grad[rows, heads].flatten(0, 1)
            dflat, dkey, dvalue = _backward(
                flat, k[keys, g], v[keys, g], do,
                lse[rows, heads].flatten(), delta[rows, heads].flatten(),
            )  # fmt: skip
            dq[rows, heads] += dflat.unflatten(0, (len(rows), -1))
            dk[keys, g] = dkey
            dv[keys, g] = dvalue
        return dq, dk, dv, None, None


def _backward(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one softmax attention of queries [n, D] over keys [m, D]."""
    scale = q.shape[1] ** -0.5
    share = torch.exp((q @ k.T) * scale - lse[:, None])
    dlogits = share * (grad @ v.T - delta[:, None]) * scale
    return dlogits @ k, dlogits.T @ q, share.T @ grad


def _window(q: Tensor, k: Tensor, v: Tensor, plan: SSAPlan) -> Tensor:
    table = plan.windows[plan.shift]
    q, k, v = (t[table.order].transpose(0, 1) for t in (q, k, v))  # heads first
    starts = table.starts.tolist()
    parts = [
        F.scaled_dot_product_attention(
            q[None, :, a:b], k[None, :, a:b], v[None, :, a:b], enable_gqa=True
        )[0]
        for a, b in zip(starts[:-1], starts[1:], strict=True)
    ]
    return torch.cat(parts, dim=1).transpose(0, 1)[table.inverse]


def _heads(q: Tensor, group: int, groups: int) -> slice:
    share = q.shape[1] // groups
    return slice(group * share, (group + 1) * share)


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def _chunks(plan: SSAPlan, heads: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows of one sample at a time, with the cells and the blocks of that sample."""
    rows, cells, blocks = (
        t.tolist() for t in (plan.cu_seqlens, plan.cells.of_sample, plan.blocks.of_sample)
    )
    for b in range(plan.batch_size):
        step = max(1, LOGITS_AT_ONCE // max(1, heads * (cells[b + 1] - cells[b])))
        for start in range(rows[b], rows[b + 1], step):
            stop = min(start + step, rows[b + 1])
            yield slice(start, stop), slice(*cells[b : b + 2]), slice(*blocks[b : b + 2])


def _readers(blocks_NGk: Tensor, plan: SSAPlan) -> Iterator[tuple[int, Tensor, slice]]:
    """(group, rows that chose a block, the block's rows), ascending in group and block."""
    starts = plan.blocks.starts.tolist()
    for g, chosen in enumerate(blocks_NGk.unbind(1)):
        number, order = torch.sort(chosen.flatten(), stable=True)
        bounds = torch.searchsorted(number, torch.arange(plan.blocks.count + 1)).tolist()
        row = order // chosen.shape[1]
        for b, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if last > first:
                yield g, row[first:last], slice(starts[b], starts[b + 1])

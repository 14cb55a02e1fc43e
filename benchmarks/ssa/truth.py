"""The definition for large batches: some queries at a time, each against all keys that it reads.

`kernels.ssa.reference` needs memory quadratic in the tokens; this walks through a few queries at a
time and gathers their keys. In float64 it is the truth; in bf16 or fp16, with products, softmax and
results rounded to that type as PyTorch's own operators do, it is what a kernel's error is compared
with. Blocks are given: the choice is not differentiated.

Gradients for `rows` only: as if the gradient of the result were zero elsewhere. Give a kernel a
gradient that is zero elsewhere, and all its gradients can be compared, those of keys too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.ssa.problem import Problem

GATHERED = 1 << 26  # numbers in the keys that are gathered at a time


@dataclass(frozen=True)
class Truth:
    """Of the asked rows: result [n, H, D], LSE of the compression [n, H], all gradients."""

    out: Tensor
    lse: Tensor
    grads: dict[str, Tensor]  # q and gates: of the rows; k, v, k_cmp, v_cmp: of all keys


def truth(problem: Problem, blocks_NGk: Tensor, rows: Tensor, dtype: torch.dtype) -> Truth:
    """Result and gradients for `rows` (ascending), computed in `dtype`."""
    # Sums over queries, as in the gradients of keys, stay exact in whatever type the rest is.
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    names = ("q", "k", "v", "k_cmp", "v_cmp", "gates")
    leaf = {name: getattr(problem, name).to(kind).requires_grad_() for name in names}
    sums = {name: torch.zeros_like(leaf[name]) for name in names}
    outs, lses = [], []
    for part in _parts(problem, rows):
        chosen = {name: x[part] if name in ("q", "gates") else x for name, x in leaf.items()}
        out, lse = _attend(chosen, problem, blocks_NGk[part], part, dtype)
        grads = torch.autograd.grad(out, list(leaf.values()), problem.grad[part].to(out.dtype))
        for name, grad in zip(names, grads, strict=True):
            sums[name] += grad
        outs.append(out.detach())
        lses.append(lse.detach())
    for name in ("q", "gates"):
        sums[name] = sums[name][rows]
    rounded = {name: grad.to(dtype) for name, grad in sums.items()}
    return Truth(torch.cat(outs), torch.cat(lses), rounded)


@torch.no_grad()
def block_scores(problem: Problem, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Parts of `rows`, their float64 scores [n, G, blocks of the sample], and the first block."""
    plan, groups = problem.plan, problem.k.shape[1]
    for part in _parts(problem, rows):
        sample = _sample(problem, part)
        cells = _range(plan.cells.of_sample, sample)
        first, behind = _bounds(plan.blocks.of_sample, sample)
        q = problem.q[part].double().unflatten(1, (groups, -1))
        share = torch.softmax(_logits(q, problem.k_cmp[cells].double().transpose(0, 1)), dim=3)
        score = share.sum(2)  # [n, G, cells]
        of_cell = plan.block_of_cell[cells].long() - first
        yield (
            part,
            score.new_zeros(*score.shape[:2], behind - first).index_add_(2, of_cell, score),
            first,
        )


def _attend(
    x: dict[str, Tensor], problem: Problem, blocks: Tensor, rows: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rows of one sample: the gated sum [n, H, D], and the LSE of the compression [n, H]."""
    plan, groups = problem.plan, problem.k.shape[1]
    low = {name: value.to(dtype) for name, value in x.items() if name not in ("k", "v")}
    q = low["q"].unflatten(1, (groups, -1))  # [n, G, H/G, D]
    cells = _range(plan.cells.of_sample, _sample(problem, rows))
    k_cmp, v_cmp = (low[name][cells].transpose(0, 1) for name in ("k_cmp", "v_cmp"))
    logits = _logits(q, k_cmp)  # [n, G, H/G, cells]
    branches = [_product(torch.softmax(logits, dim=3), v_cmp)]
    lse = torch.logsumexp(logits, dim=3).flatten(1)
    group = torch.arange(groups, device=rows.device)[:, None]
    for key, there in (_of_blocks(problem, blocks), _of_window(problem, rows)):
        # Gathered before rounding: the way back then adds up in the wide type.
        k, v = (x[name][key, group].to(dtype) for name in ("k", "v"))  # [n, G, m, D]
        logits = _logits(q, k).masked_fill(~there[:, :, None], float("-inf"))
        branches.append(torch.softmax(logits, dim=3) @ v)
    gates = low["gates"][:, :, None, None, None]
    stacked = torch.stack(branches, 1) * gates
    return stacked.sum(1).flatten(1, 2), lse


def _logits(q: Tensor, k: Tensor) -> Tensor:
    """q [n, G, s, D] with k [G, m, D] or [n, G, m, D]: [n, G, s, m]."""
    return _product(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [n, G, s, x] times b [G, x, y] or [n, G, x, y]: [n, G, s, y]."""
    if b.ndim == 4:
        return a @ b
    # one product per group: a plain `@` would first make n copies of b
    flat = a.transpose(0, 1).flatten(1, 2) @ b
    return flat.unflatten(1, (a.shape[0], a.shape[2])).transpose(0, 1)


def _of_blocks(problem: Problem, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Token numbers [n, G, m] of the chosen blocks, and which of them are there."""
    starts = problem.plan.blocks.starts.long()
    block = blocks.clamp(min=0).long()
    first = starts[block]
    length = torch.where(blocks < 0, 0, starts[block + 1] - first)
    ends = length.cumsum(2)  # one list without gaps: as wide as the fullest, not as the longest
    place = torch.arange(max(int(ends[..., -1].max()), 1), device=blocks.device)
    slot = torch.searchsorted(ends, place.expand(*ends.shape[:2], -1).contiguous(), right=True)
    there = slot < blocks.shape[2]
    slot = slot.clamp(max=blocks.shape[2] - 1)
    key = first.gather(2, slot) + place - (ends - length).gather(2, slot)
    return torch.where(there, key, 0), there


def _of_window(problem: Problem, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Token numbers [n, G, m] of the own window, and which of them are there."""
    table, groups = problem.plan.near, problem.k.shape[1]
    starts = table.starts.long()
    window = torch.searchsorted(starts, table.inverse[rows], right=True) - 1
    place = starts[window][:, None] + torch.arange(table.longest, device=rows.device)
    there = place < starts[window + 1][:, None]
    key = table.order[torch.where(there, place, 0)]
    wide = (-1, groups, -1)
    return key[:, None].expand(wide), there[:, None].expand(wide)


def _parts(problem: Problem, rows: Tensor) -> Iterator[Tensor]:
    """Rows of one sample at a time, as few as the gathered keys allow."""
    plan, (_, groups, width) = problem.plan, problem.k.shape
    widest = max(problem.top_k * plan.blocks.longest, plan.near.longest, 1) * groups * width
    size = max(1, GATHERED // widest)
    sample = torch.searchsorted(plan.cu_seqlens.long(), rows, right=True)
    for of_one in rows.split(torch.unique_consecutive(sample, return_counts=True)[1].tolist()):
        yield from of_one.split(size)


def _sample(problem: Problem, rows: Tensor) -> int:
    """The sample that all of these rows are of."""
    return int(torch.searchsorted(problem.plan.cu_seqlens.long(), rows[:1], right=True)) - 1


def _bounds(starts: Tensor, number: int) -> tuple[int, int]:
    first, behind = starts[number : number + 2].tolist()
    return first, behind


def _range(starts: Tensor, number: int) -> slice:
    return slice(*_bounds(starts, number))

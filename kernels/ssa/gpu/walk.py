"""Attention along a walk: a tile of queries goes from one run of keys to the next.

One program holds a few consecutive queries with all heads of a KV group as the rows of one matrix,
so each key is loaded once for all of them, and goes through the runs of keys that at least one of
its queries reads (`Walk`). A bit per query and run masks the others out. Compression, selection and
windows differ in their walks only.

The next run is loaded while the current one is computed: an address that depends on a load in the
same turn would leave Triton's pipeline with two buffers however many stages are asked for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.ssa.gpu.shapes import Heads
from kernels.ssa.tables import Walk

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# A finite start of the running maximum: rows that no key has reached yet stay free of NaN.
LOWEST = tl.constexpr(-1.0e30)
# Sizes that every batch changes: compiled once, not once for 1, for multiples of 16 and for others.
OF_THE_BATCH = ("tiles", "plane")


def walk_forward(
    q: Tensor, k: Tensor, v: Tensor, walk: Walk, heads: Heads
) -> tuple[Tensor, Tensor]:
    """Attention of q [N, H, D] over the keys of its walk: [N, H, D], natural LSE [N, H] in fp32."""
    out = torch.empty_like(q)  # every row is in one tile, and so is written
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    grid = (walk.tiles.shape[0], k.shape[1] * heads.chunks)
    _forward[grid](
        q, k, v, walk.tiles, walk.runs, walk.steps, out, lse,
        walk.tiles.shape[0], walk.runs.shape[1] * walk.runs.shape[2] * walk.runs.shape[3],
        q.shape[1], k.shape[1], heads.share, CAPACITY=walk.runs.shape[3],
        PER_GROUP=walk.runs.shape[1] > 1, D=q.shape[2], **heads.constants(), **heads.options(),
    )  # fmt: skip
    return out, lse


def walk_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, walk: Walk,
    heads: Heads,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of q [N, H, D]; sum over D of grad · out [N, H] in fp32, for `readers_backward`."""
    dq = torch.empty_like(q)
    delta = q.new_empty(q.shape[:2], dtype=torch.float32)
    grid = (walk.tiles.shape[0], k.shape[1] * heads.chunks)
    _backward[grid](
        q, k, v, out, lse, grad, walk.tiles, walk.runs, walk.steps, dq, delta,
        walk.tiles.shape[0], walk.runs.shape[1] * walk.runs.shape[2] * walk.runs.shape[3],
        q.shape[1], k.shape[1], heads.share, CAPACITY=walk.runs.shape[3],
        PER_GROUP=walk.runs.shape[1] > 1, D=q.shape[2], **heads.constants(), **heads.options(),
    )  # fmt: skip
    return dq, delta


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _forward(
    Q, K, V, TILES, RUNS, STEPS, OUT, LSE, tiles, plane, H, G, share,
    CAPACITY: tl.constexpr, PER_GROUP: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, group, head, query, live, bit = _rows(TILES, G, share, QUERIES, ROWS)
    d = tl.arange(0, D)
    row = query.to(tl.int64) * H + head
    q = tl.load(Q + row[:, None] * D + d[None, :], mask=live[:, None], other=0.0)
    run, steps = _list(RUNS, STEPS, tile, group, tiles, CAPACITY, PER_GROUP)
    first, behind, bits = _run(run, plane, 0, CAPACITY)
    next_first, next_behind, next_bits = _run(run, plane, 1, CAPACITY)
    at = 1
    best = tl.full([QUERIES * ROWS], LOWEST, tl.float32)
    total = tl.zeros([QUERIES * ROWS], tl.float32)
    acc = tl.zeros([QUERIES * ROWS, D], tl.float32)
    for _ in range(steps):
        inside, k, v = _keys(K, V, first, behind, G, group, D, KEYS)
        reads = ((bits >> bit) & 1)[:, None] != 0
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * (LOG2E / D**0.5)
        s = tl.where(inside[None, :] & reads, s, float("-inf"))
        new = tl.maximum(best, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        keep = tl.exp2(best - new)
        total = total * keep + tl.sum(p, 1)
        acc = acc * keep[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        best = new
        first, behind, bits, at, next_first, next_behind, next_bits = _go_on(
            run, plane, at, first, behind, bits, next_first, next_behind, next_bits, CAPACITY, KEYS
        )
    some = tl.where(total == 0.0, 1.0, total)  # a query that reads nothing gets zeros
    out = acc / some[:, None]
    tl.store(OUT + row[:, None] * D + d[None, :], out.to(OUT.dtype.element_ty), mask=live[:, None])
    lse = tl.where(total == 0.0, float("-inf"), best * LN2 + tl.log(some))
    tl.store(LSE + row, lse, mask=live)


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _backward(
    Q, K, V, OUT, LSE, GRAD, TILES, RUNS, STEPS, DQ, DELTA, tiles, plane, H, G, share,
    CAPACITY: tl.constexpr, PER_GROUP: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, group, head, query, live, bit = _rows(TILES, G, share, QUERIES, ROWS)
    d = tl.arange(0, D)
    row = query.to(tl.int64) * H + head
    at_row = row[:, None] * D + d[None, :]
    q = tl.load(Q + at_row, mask=live[:, None], other=0.0)
    grad = tl.load(GRAD + at_row, mask=live[:, None], other=0.0)
    out = tl.load(OUT + at_row, mask=live[:, None], other=0.0)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(DELTA + row, delta, mask=live)
    top = tl.load(LSE + row, mask=live, other=0.0) * LOG2E
    run, steps = _list(RUNS, STEPS, tile, group, tiles, CAPACITY, PER_GROUP)
    first, behind, bits = _run(run, plane, 0, CAPACITY)
    next_first, next_behind, next_bits = _run(run, plane, 1, CAPACITY)
    at = 1
    acc = tl.zeros([QUERIES * ROWS, D], tl.float32)
    for _ in range(steps):
        inside, k, v = _keys(K, V, first, behind, G, group, D, KEYS)
        reads = inside[None, :] & (((bits >> bit) & 1)[:, None] != 0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * (LOG2E / D**0.5)
        p = tl.exp2(s - top[:, None])
        dp = tl.dot(grad, tl.trans(v), input_precision="ieee")
        ds = tl.where(reads, p * (dp - delta[:, None]), 0.0)
        acc += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
        first, behind, bits, at, next_first, next_behind, next_bits = _go_on(
            run, plane, at, first, behind, bits, next_first, next_behind, next_bits, CAPACITY, KEYS
        )
    acc *= 1.0 / D**0.5
    tl.store(DQ + at_row, acc.to(DQ.dtype.element_ty), mask=live[:, None])


@triton.jit
def _rows(TILES, G, share, QUERIES: tl.constexpr, ROWS: tl.constexpr):
    """Rows of this program: QUERIES queries times ROWS heads of one KV group."""
    tile = tl.program_id(0)
    group = tl.program_id(1) % G
    row = tl.arange(0, QUERIES * ROWS)
    bit = row // ROWS
    member = (tl.program_id(1) // G) * ROWS + row % ROWS  # head inside the group
    query = tl.load(TILES + 2 * tile) + bit
    live = (query < tl.load(TILES + 2 * tile + 1)) & (member < share)
    return tile, group, group * share + member, query, live, bit


@triton.jit
def _list(
    RUNS, STEPS, tile, group, tiles, CAPACITY: tl.constexpr, PER_GROUP: tl.constexpr
):  # fmt: skip
    """Where the list of a tile begins, and the steps through all of its runs."""
    listed = tile
    if PER_GROUP:
        listed += group * tiles
    return RUNS + listed.to(tl.int64) * CAPACITY, tl.load(STEPS + listed)


@triton.jit
def _go_on(
    run, plane, at, first, behind, bits, next_first, next_behind, next_bits,
    CAPACITY: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Further in this run, or on to the next one, whose successor is then loaded ahead."""
    first += KEYS
    over = first >= behind
    first = tl.where(over, next_first, first)
    behind = tl.where(over, next_behind, behind)
    bits = tl.where(over, next_bits, bits)
    at = tl.where(over, at + 1, at)
    next_first, next_behind, next_bits = _run(run, plane, at, CAPACITY)
    return first, behind, bits, at, next_first, next_behind, next_bits


@triton.jit
def _run(run, plane, number, CAPACITY: tl.constexpr):
    """First key, key behind the last, and reading queries of a run in a tile's list."""
    there = number < CAPACITY
    place = run + number
    first = tl.load(place, mask=there, other=0)
    behind = tl.load(place + plane, mask=there, other=0)
    bits = tl.load(place + 2 * plane.to(tl.int64), mask=there, other=0)
    return first, behind, bits


@triton.jit
def _keys(K, V, first, behind, G, group, D: tl.constexpr, KEYS: tl.constexpr):
    """Keys and values [KEYS, D] from `first` on; rows from `behind` on are zeros."""
    key = first + tl.arange(0, KEYS)
    inside = key < behind
    place = (key.to(tl.int64) * G + group)[:, None] * D + tl.arange(0, D)[None, :]
    k = tl.load(K + place, mask=inside[:, None], other=0.0)
    v = tl.load(V + place, mask=inside[:, None], other=0.0)
    return inside, k, v

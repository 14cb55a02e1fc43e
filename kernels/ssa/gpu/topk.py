"""Which blocks each query reads: scores from the compression branch, then the best k.

The score of a block is the softmax probability of its cells, summed over the heads of a KV group.
Scores of a few thousand queries at a time go through memory, never those of all queries; the second
kernel takes the best k of a row by k passes of maximum. Equal scores: the lower block wins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.ssa.gpu.shapes import score_heads
from kernels.ssa.gpu.walk import LOG2E
from kernels.ssa.plan import SSAPlan
from kernels.ssa.tables import QUERY_TILES

SCORES_AT_ONCE = 1 << 26  # fp32 numbers: 256 MiB
SPAN = 1024  # blocks of a row that are looked at together
OF_THE_BATCH = ("start", "total", "most")  # sizes that are not a reason to compile again


def best_blocks(q: Tensor, k_cmp: Tensor, lse: Tensor, plan: SSAPlan, top_k: int) -> Tensor:
    """The blocks that each query chooses: int32 [N, G, top_k], ascending, -1 behind.

    q [N, H, D], k_cmp [M, G, D]; lse [N, H], natural, of the compression branch.
    """
    heads = score_heads(q, k_cmp)
    tiles = plan.samples[QUERY_TILES.index(heads.queries)]
    groups, most = k_cmp.shape[1], plan.blocks.most
    blocks = torch.empty(len(q), groups, top_k, dtype=torch.int32, device=q.device)
    per_tile = heads.queries * groups * most
    at_once = min(tiles.count, max(1, SCORES_AT_ONCE // per_tile))
    scores = q.new_empty(at_once * per_tile, dtype=torch.float32)
    span = min(SPAN, triton.next_power_of_2(max(most, 2)))
    rows = 32 if triton.knobs.runtime.interpret else 1
    for start in range(0, tiles.count, at_once):
        now = min(at_once, tiles.count - start)
        _score[(now, groups)](
            q, k_cmp, lse, tiles.bounds, tiles.run, plan.cells.of_sample, plan.blocks.of_sample,
            plan.block_of_cell, scores, start, q.shape[1], groups, heads.share, most,
            ONE_CELL=plan.cells.count == plan.blocks.count, CHUNKS=heads.chunks, D=q.shape[2],
            **heads.constants(), **heads.options(),
        )  # fmt: skip
        total = now * heads.queries
        _best[(triton.cdiv(total, rows), groups)](
            scores, tiles.bounds, tiles.run, plan.blocks.of_sample, blocks, start, total, groups,
            most, K=top_k, WIDTH=triton.next_power_of_2(top_k), QUERIES=heads.queries, ROWS=rows,
            SPAN=span, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return blocks


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _score(
    Q, K, LSE, TILES, SAMPLE, CELLS, BLOCKS, BLOCK_OF_CELL, SCORE, start, H, G, share, most,
    ONE_CELL: tl.constexpr, CHUNKS: tl.constexpr, D: tl.constexpr, QUERIES: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Scores [queries of the chunk, G, most] of a tile of queries, block numbers of the sample."""
    tile = tl.program_id(0) + start
    group = tl.program_id(1)
    sample = tl.load(SAMPLE + tile)
    first_cell = tl.load(CELLS + sample)
    behind_cell = tl.load(CELLS + sample + 1)
    first_block = tl.load(BLOCKS + sample)
    d = tl.arange(0, D)
    column = tl.arange(0, KEYS)
    place = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    to = SCORE + (place.to(tl.int64) * G + group) * most
    carry = tl.zeros([QUERIES], tl.float32)  # of a block that began in the last turn
    carried = -1
    if CHUNKS == 1:
        q, top, live = _queries(Q, LSE, TILES, tile, group, 0, H, share, D, QUERIES, ROWS)
    for cell in range(first_cell, behind_cell, KEYS):
        key = cell + column
        inside = key < behind_cell
        at_key = (key.to(tl.int64) * G + group)[:, None] * D + d[None, :]
        k = tl.load(K + at_key, mask=inside[:, None], other=0.0)
        score = tl.zeros([QUERIES, KEYS], tl.float32)
        for chunk in range(CHUNKS):  # unrolled, it would take the registers of all chunks
            if CHUNKS > 1:
                q, top, live = _queries(
                    Q, LSE, TILES, tile, group, chunk, H, share, D, QUERIES, ROWS
                )
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * (LOG2E / D**0.5)
            p = tl.where(live[:, None], tl.exp2(s - top[:, None]), 0.0)
            score += tl.sum(tl.reshape(p, [QUERIES, ROWS, KEYS]), 1)
        block = tl.load(BLOCK_OF_CELL + key, mask=inside, other=-1)
        last = inside
        if not ONE_CELL:
            score, carry, carried, last = _per_block(
                score, block, carry, carried, BLOCK_OF_CELL, key, inside, behind_cell, KEYS
            )
        at = to[:, None] + (block - first_block)[None, :]
        tl.store(at, score, mask=last[None, :])


@triton.jit
def _queries(
    Q, LSE, TILES, tile, group, chunk, H, share,
    D: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rows of a tile's queries, their LSE in base 2, and which of them there are."""
    row = tl.arange(0, QUERIES * ROWS)
    query = tl.load(TILES + 2 * tile) + row // ROWS
    member = chunk * ROWS + row % ROWS  # head inside the group
    live = (query < tl.load(TILES + 2 * tile + 1)) & (member < share)
    head_row = query.to(tl.int64) * H + group * share + member
    at = head_row[:, None] * D + tl.arange(0, D)[None, :]
    q = tl.load(Q + at, mask=live[:, None], other=0.0)
    top = tl.load(LSE + head_row, mask=live, other=0.0) * LOG2E
    return q, top, live


@triton.jit
def _per_block(
    score, block, carry, carried, BLOCK_OF_CELL, key, inside, behind_cell, KEYS: tl.constexpr
):  # fmt: skip
    """Sums over the cells of each block, in the column of its last cell.

    A block has at most 8 cells in a row, so three steps of adding the neighbour 1, 2, 4 columns
    before, where it is of the same block, add them all.
    """
    column = tl.arange(0, KEYS)
    for step in tl.static_range(3):
        before = tl.maximum(column - (1 << step), 0)
        same = (tl.gather(block, before, 0) == block) & (column >= (1 << step))
        index = tl.broadcast_to(before[None, :], score.shape)
        score += tl.where(same[None, :], tl.gather(score, index, 1), 0.0)
    score += tl.where((block == carried)[None, :], carry[:, None], 0.0)
    following = tl.load(BLOCK_OF_CELL + key + 1, mask=key + 1 < behind_cell, other=-1)
    last = inside & (following != block)
    carry = tl.sum(tl.where((column == KEYS - 1)[None, :], score, 0.0), 1)
    carried = tl.max(tl.where(column == KEYS - 1, block, -1), 0)
    return score, carry, carried, last


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _best(
    SCORE, TILES, SAMPLE, BLOCKS, CHOSEN, start, total, G, most,
    K: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """The K best columns of each row of scores, ascending, as block numbers of the batch."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    there = place < total
    tile = start + place // QUERIES
    query = tl.load(TILES + 2 * tile, mask=there, other=0) + place % QUERIES
    there &= query < tl.load(TILES + 2 * tile + 1, mask=there, other=0)
    sample = tl.load(SAMPLE + tile, mask=there, other=0)
    first = tl.load(BLOCKS + sample, mask=there, other=0)
    count = tl.load(BLOCKS + sample + 1, mask=there, other=0) - first
    at = SCORE + (place.to(tl.int64) * G + group) * most
    slot = tl.arange(0, WIDTH)
    # The best so far, in no order; -1 where there is none. Real scores are never negative.
    kept = tl.full([ROWS, WIDTH], -1.0, tl.float32)
    number = tl.full([ROWS, WIDTH], -1, tl.int32)
    for begin in range(0, tl.max(count, 0), SPAN):
        column = begin + tl.arange(0, SPAN)
        valid = there[:, None] & (column[None, :] < count[:, None])
        score = tl.load(at[:, None] + column[None, :], mask=valid, other=-1.0)
        score = tl.where(score >= 0.0, score, tl.where(valid, 0.0, -1.0))  # a NaN counts as nothing
        new_kept = tl.full([ROWS, WIDTH], -1.0, tl.float32)
        new_number = tl.full([ROWS, WIDTH], -1, tl.int32)
        for rank in range(K):
            old, old_at = tl.max(kept, 1, return_indices=True)
            fresh, fresh_at = tl.max(score, 1, return_indices=True)
            from_old = old >= fresh  # earlier spans have lower numbers
            best = tl.maximum(old, fresh)
            old_number = tl.sum(tl.where(slot[None, :] == old_at[:, None], number, 0), 1)
            which = tl.where(from_old, old_number, begin + fresh_at)
            take = (slot == rank)[None, :]
            new_kept = tl.where(take, best[:, None], new_kept)
            new_number = tl.where(take, tl.where(best < 0.0, -1, which)[:, None], new_number)
            hit_old = from_old[:, None] & (slot[None, :] == old_at[:, None])
            kept = tl.where(hit_old, -1.0, kept)
            hit = (from_old == 0)[:, None] & (tl.arange(0, SPAN)[None, :] == fresh_at[:, None])
            score = tl.where(hit, -1.0, score)
        kept, number = new_kept, new_number
    # ascending by number: each goes to the place that is the count of smaller ones
    real = number >= 0
    smaller = real[:, None, :] & (number[:, None, :] < number[:, :, None])
    rank_of = tl.sum(smaller.to(tl.int32), 2)
    found = tl.sum(real.to(tl.int32), 1)
    to = CHOSEN + (query.to(tl.int64) * G + group) * K
    mask = there[:, None] & real
    tl.store(to[:, None] + rank_of, number + first[:, None], mask=mask)
    empty = there[:, None] & (slot[None, :] >= found[:, None]) & (slot[None, :] < K)
    tl.store(to[:, None] + slot[None, :], tl.full([ROWS, WIDTH], -1, tl.int32), mask=empty)

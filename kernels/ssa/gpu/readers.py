"""Gradients of keys and values: a tile of keys gathers the queries that read it.

One program holds a tile of keys and goes through a part of its readers (`Readers`), a few queries
with all heads of the KV group at a time, so the sum over the heads that share a key stays inside.
A tile with many readers is several programs, each of which writes a partial sum in fp32; a second
kernel adds them in their order. No atomics: two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.ssa.gpu.shapes import reader_heads
from kernels.ssa.gpu.walk import LOG2E
from kernels.ssa.tables import KEY_TILE, Readers

OF_THE_BATCH = ("tiles", "items")  # sizes that every batch changes: not a reason to compile again


def readers_backward(
    q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, grad: Tensor, readers: Readers
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of k and v [M, G, D]; lse and delta [N, H] come from the walk's two passes."""
    tiles, groups, width = readers.tiles.shape[0], k.shape[1], k.shape[2]
    items = readers.item_tile.shape[1]
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    partial = k.new_empty(2, groups, items, KEY_TILE, width, dtype=torch.float32)
    per_group, listed = readers.part.shape[0] > 1, readers.rows.shape[0] > 0
    heads = reader_heads(q, k, listed)
    _items[(items, groups)](
        q, k, v, lse, delta, grad, readers.tiles, readers.part, readers.rows,
        readers.item_tile, readers.first_item, dk, dv, partial,
        tiles, items, q.shape[1], groups, heads.share, readers.share,
        PER_GROUP=per_group, LISTED=listed, CHUNKS=heads.chunks, D=width,
        **heads.constants(), **heads.options(),
    )  # fmt: skip
    _add_up[(tiles, groups)](
        readers.tiles, readers.first_item, partial, dk, dv, tiles, items, groups,
        PER_GROUP=per_group, D=width, KEYS=KEY_TILE, num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    return dk, dv


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _items(
    Q, K, V, LSE, DELTA, GRAD, TILES, PART, READER, ITEM_TILE, FIRST_ITEM, DK, DV, PARTIAL,
    tiles, items, H, G, share, queries_per_item,
    PER_GROUP: tl.constexpr, LISTED: tl.constexpr, CHUNKS: tl.constexpr, D: tl.constexpr,
    QUERIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0)
    group = tl.program_id(1)
    table = 0
    if PER_GROUP:
        table = group
    tile = tl.load(ITEM_TILE + table * items + item)
    if tile >= tiles:  # the grid is an upper bound
        return
    first_item = tl.load(FIRST_ITEM + table * (tiles + 1) + tile)
    alone = tl.load(FIRST_ITEM + table * (tiles + 1) + tile + 1) == first_item + 1
    part = PART + (table * tiles + tile) * 2
    begin = tl.load(part) + (item - first_item).to(tl.int64) * queries_per_item
    end = tl.minimum(begin + queries_per_item, tl.load(part + 1))

    d = tl.arange(0, D)
    key = tl.load(TILES + 2 * tile) + tl.arange(0, KEYS)
    inside = key < tl.load(TILES + 2 * tile + 1)
    at_key = (key.to(tl.int64) * G + group)[:, None] * D + d[None, :]
    k = tl.load(K + at_key, mask=inside[:, None], other=0.0)
    v = tl.load(V + at_key, mask=inside[:, None], other=0.0)
    row = tl.arange(0, QUERIES * ROWS)
    dk = tl.zeros([KEYS, D], tl.float32)
    dv = tl.zeros([KEYS, D], tl.float32)
    turns = tl.cdiv(end - begin, QUERIES).to(tl.int32) * CHUNKS
    for turn in range(turns):
        slot = begin + (turn // CHUNKS) * QUERIES + row // ROWS
        member = (turn % CHUNKS) * ROWS + row % ROWS  # head inside the group
        live = (slot < end) & (member < share)
        query = slot
        if LISTED:
            query = tl.load(READER + slot, mask=live, other=0).to(tl.int64)
        head_row = query * H + group * share + member
        at_row = head_row[:, None] * D + d[None, :]
        q = tl.load(Q + at_row, mask=live[:, None], other=0.0)
        grad = tl.load(GRAD + at_row, mask=live[:, None], other=0.0)
        top = tl.load(LSE + head_row, mask=live, other=0.0) * LOG2E
        delta = tl.load(DELTA + head_row, mask=live, other=0.0)
        # transposed, [keys, rows]: the products below take it as it lies in the registers
        s = tl.dot(k, tl.trans(q), input_precision="ieee") * (LOG2E / D**0.5)
        p = tl.where(live[None, :], tl.exp2(s - top[None, :]), 0.0)
        dv += tl.dot(p.to(grad.dtype), grad, input_precision="ieee")
        dp = tl.dot(v, tl.trans(grad), input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk += tl.dot(ds.to(q.dtype), q, input_precision="ieee")
    dk *= 1.0 / D**0.5
    if alone:
        tl.store(DK + at_key, dk.to(DK.dtype.element_ty), mask=inside[:, None])
        tl.store(DV + at_key, dv.to(DV.dtype.element_ty), mask=inside[:, None])
    else:
        slot_of = (group * items + item).to(tl.int64)
        cell = tl.arange(0, KEYS)[:, None] * D + d[None, :]
        tl.store(PARTIAL + slot_of * KEYS * D + cell, dk)
        behind = (G * items).to(tl.int64) * KEYS * D
        tl.store(PARTIAL + behind + slot_of * KEYS * D + cell, dv)


@triton.jit(do_not_specialize=OF_THE_BATCH)
def _add_up(
    TILES, FIRST_ITEM, PARTIAL, DK, DV, tiles, items, G,
    PER_GROUP: tl.constexpr, D: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of tiles that were several items, or none."""
    tile = tl.program_id(0)
    group = tl.program_id(1)
    table = 0
    if PER_GROUP:
        table = group
    first = tl.load(FIRST_ITEM + table * (tiles + 1) + tile)
    behind = tl.load(FIRST_ITEM + table * (tiles + 1) + tile + 1)
    if behind - first == 1:
        return
    d = tl.arange(0, D)
    cell = tl.arange(0, KEYS)[:, None] * D + d[None, :]
    values = (G * items).to(tl.int64) * KEYS * D
    dk = tl.zeros([KEYS, D], tl.float32)
    dv = tl.zeros([KEYS, D], tl.float32)
    for item in range(first, behind):
        at = PARTIAL + (group * items + item).to(tl.int64) * KEYS * D + cell
        dk += tl.load(at)
        dv += tl.load(at + values)
    key = tl.load(TILES + 2 * tile) + tl.arange(0, KEYS)
    inside = key < tl.load(TILES + 2 * tile + 1)
    at_key = (key.to(tl.int64) * G + group)[:, None] * D + d[None, :]
    tl.store(DK + at_key, dk.to(DK.dtype.element_ty), mask=inside[:, None])
    tl.store(DV + at_key, dv.to(DV.dtype.element_ty), mask=inside[:, None])

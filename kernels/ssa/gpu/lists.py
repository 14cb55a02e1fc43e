"""From the blocks that queries chose to walks and readers: sorting, on the device, without a sync.

Every size is known beforehand or bounded, so nothing is read back. The lists are a function of the
chosen blocks alone: blocks ascending in a walk, queries ascending among a block's readers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ssa.plan import SSAPlan
from kernels.ssa.tables import KEY_TILE, QUERY_TILES, Readers, Walk, work_items


def selection_walk(blocks_NGk: Tensor, plan: SSAPlan, queries: int) -> Walk:
    """For each tile of queries and KV group: the blocks that at least one of them chose."""
    tiles = plan.samples[QUERY_TILES.index(queries)]
    first, behind = tiles.bounds.long().unsqueeze(2).unbind(1)  # [tiles, 1]
    member = torch.arange(queries, device=first.device)
    row = first + member  # [tiles, queries]
    chosen = blocks_NGk[row.clamp(max=max(plan.tokens - 1, 0))]  # [tiles, queries, G, k]
    none = plan.blocks.count * queries
    key = torch.where(chosen < 0, none, chosen * queries + member[:, None, None].int())
    key = torch.where((row < behind)[:, :, None, None], key, none)
    key = key.permute(2, 0, 1, 3).flatten(2).sort(dim=2).values  # [G, tiles, queries · k]
    block, bit = key // queries, key % queries
    there = key < none
    fresh = torch.ones_like(there)
    fresh[..., 1:] = block[..., 1:] != block[..., :-1]
    capacity = key.shape[2] + 1  # the last run takes what is not there
    slot = torch.where(there, fresh.cumsum(2) - 1, capacity - 1)
    starts = plan.blocks.starts
    block = block.clamp(max=max(plan.blocks.count - 1, 0)).long()
    runs = starts.new_zeros(3, *key.shape[:2], capacity)
    runs[0].scatter_(2, slot, torch.where(there, starts[block], 0))
    runs[1].scatter_(2, slot, torch.where(there, starts[block + 1], 0))
    runs[2].scatter_add_(2, slot, torch.where(there, 1 << bit, 0).int())
    steps = (runs[1] - runs[0] + KEY_TILE - 1).div(KEY_TILE, rounding_mode="floor").sum(2)
    return Walk(tiles.bounds, runs, steps.int())


def selection_readers(blocks_NGk: Tensor, plan: SSAPlan, share: int) -> Readers:
    """For each tile of a block and KV group: the queries that chose the block."""
    tokens, groups, top_k = blocks_NGk.shape
    count = plan.blocks.count
    chosen = blocks_NGk.permute(1, 0, 2).flatten(1)  # [G, N · k]
    chosen = torch.where(chosen < 0, count, chosen)
    number, order = torch.sort(chosen, dim=1, stable=True)
    block = torch.arange(count + 1, device=chosen.device, dtype=number.dtype)
    bounds = torch.searchsorted(number, block.expand(groups, -1).contiguous())  # [G, blocks + 1]
    tile_block = plan.block_tiles.run.long()
    begin, end = bounds[:, tile_block], bounds[:, tile_block + 1]  # [G, tiles]
    pieces = -(-plan.blocks.longest // KEY_TILE)
    most = plan.block_tiles.count + tokens * min(top_k, plan.blocks.most) * pieces // share
    item_tile, first_item = work_items((end - begin + share - 1) // share, most)
    offset = torch.arange(groups, device=chosen.device)[:, None, None] * (tokens * top_k)
    part = torch.stack([begin, end], dim=2) + offset
    rows = (order // top_k).int().flatten()
    return Readers(plan.block_tiles.bounds, part, rows, item_tile, first_item, share)

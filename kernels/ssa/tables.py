"""Index tables of Spatial Sparse Attention: runs of rows, and who reads which of them.

All three branches are one idea. Keys lie in runs of consecutive rows (a sample's cells, a block, a
window). A *walk* says which runs each tile of queries reads; *readers* say the reverse, which
queries read each tile of keys. Compression and window have walks that depend on coordinates alone;
the walk of the selection branch is made from the chosen blocks (`kernels.ssa.gpu.lists`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEY_TILE = 64  # keys that a kernel holds at a time
QUERY_TILES = (4, 8, 16)  # queries that one program of a kernel serves, times heads of a KV group
ALL_READ = (1 << max(QUERY_TILES)) - 1  # one bit per query of a tile
STATIC_SHARE = 4096  # queries per work item where every query reads every key


@dataclass(frozen=True)
class Runs:
    """Consecutive rows that belong together (blocks, cells), numbered over the whole batch."""

    starts: Tensor  # int32 [count + 1], first row of each run
    of_row: Tensor  # int32 [N], run of each row
    of_sample: Tensor  # int32 [B + 1], first run of each sample
    count: int
    longest: int  # rows of the longest run
    most: int  # runs of the sample that has most


@dataclass(frozen=True)
class Tiles:
    """Rows cut into tiles that never reach over the border of a run."""

    bounds: Tensor  # int32 [count, 2], first row and the row behind the last
    run: Tensor  # int32 [count], the run that holds the tile
    count: int


@dataclass(frozen=True)
class Walk:
    """What each tile of queries reads, step by step, `KEY_TILE` keys at most in a step.

    `runs` holds three planes: first key, the key behind the last, and one bit per query of the tile
    that reads the run. Its second axis is the KV group, or 1 where all groups read the same.
    """

    tiles: Tensor  # int32 [tiles, 2], query rows
    runs: Tensor  # int32 [3, G or 1, tiles, capacity]
    steps: Tensor  # int32 [G or 1, tiles], steps through all runs of the tile


@dataclass(frozen=True)
class Readers:
    """Who reads each tile of keys, in work items of at most `share` queries.

    A key tile with many readers is several items, whose partial sums are added in their order: no
    atomics, and no program that works alone on what everybody reads.
    """

    tiles: Tensor  # int32 [tiles, 2], key rows
    part: Tensor  # int64 [G or 1, tiles, 2], part of `rows` that reads each tile
    rows: Tensor  # int32, query rows; empty where part numbers the query rows themselves
    item_tile: Tensor  # int32 [G or 1, items], tile of each item; `tiles` where there is no item
    first_item: Tensor  # int32 [G or 1, tiles + 1]
    share: int


@dataclass(frozen=True)
class DenseTables:
    """Attention in which every query of a run reads every key of the run with the same number."""

    walks: tuple[Walk, ...]  # one for each of QUERY_TILES
    readers: Readers

    def walk(self, queries: int) -> Walk:
        """The walk of tiles of so many queries."""
        return self.walks[QUERY_TILES.index(queries)]


def runs_of(key: Tensor, cu_seqlens: Tensor) -> Runs:
    """Runs of equal keys [N]; keys of different samples differ."""
    _, of_row, lengths = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    starts = starts_of(lengths)
    of_sample = torch.searchsorted(starts[:-1].contiguous(), cu_seqlens)
    return Runs(
        starts.int(), of_row.int(), of_sample.int(),
        count=len(lengths), longest=longest(starts), most=longest(of_sample),
    )  # fmt: skip


def cut(starts: Tensor, size: int) -> Tiles:
    """Runs [count + 1] cut into tiles of at most `size` rows. Reads sizes back: plan time only."""
    starts = starts.long()
    pieces = (starts.diff() + size - 1) // size
    run = torch.repeat_interleave(torch.arange(len(pieces), device=starts.device), pieces)
    rank = torch.arange(len(run), device=starts.device) - (pieces.cumsum(0) - pieces)[run]
    first = starts[run] + rank * size
    behind = torch.minimum(first + size, starts[run + 1])
    return Tiles(torch.stack([first, behind], 1).int(), run.int(), len(run))


def dense_tables(query_starts: Tensor, key_starts: Tensor) -> DenseTables:
    """Tables for queries and keys in the same number of runs [runs + 1]."""
    walks = []
    for size in QUERY_TILES:
        tiles = cut(query_starts, size)
        run = tiles.run.long()
        first, behind = key_starts[run], key_starts[run + 1]
        runs = torch.stack([first, behind, torch.full_like(first, ALL_READ)]).int()
        steps = (behind - first + KEY_TILE - 1) // KEY_TILE
        walks.append(Walk(tiles.bounds, runs[:, None, :, None].contiguous(), steps.int()[None]))
    keys = cut(key_starts, KEY_TILE)
    run = keys.run.long()
    part = torch.stack([query_starts[run], query_starts[run + 1]], 1).long()[None]
    counts = (part[..., 1] - part[..., 0] + STATIC_SHARE - 1) // STATIC_SHARE  # [1, tiles]
    total = int(counts.sum())
    no_rows = keys.bounds.new_empty(0)
    readers = Readers(keys.bounds, part, no_rows, *work_items(counts, total), STATIC_SHARE)
    return DenseTables(tuple(walks), readers)


def work_items(counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """item_tile and first_item of `Readers`, from the items of each tile [G, tiles].

    most: bound on the items of a group, known without reading the counts.
    """
    first = torch.nn.functional.pad(counts.cumsum(1), (1, 0))  # [G, tiles + 1]
    item = torch.arange(most, device=counts.device).expand(len(counts), -1).contiguous()
    tile = torch.searchsorted(first[:, 1:].contiguous(), item, right=True)
    return tile.int(), first.int()


def starts_of(lengths: Tensor) -> Tensor:
    """First row of each run [count + 1] from the runs' lengths [count]."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def longest(starts: Tensor) -> int:
    """Rows of the longest run; 0 without runs."""
    return int(starts.diff().max()) if len(starts) > 1 else 0

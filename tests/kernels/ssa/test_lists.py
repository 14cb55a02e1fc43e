"""Walks and readers of the chosen blocks, against loops over dictionaries."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kernels.ssa import SSAPlan
from kernels.ssa.gpu.lists import selection_readers, selection_walk
from kernels.ssa.tables import KEY_TILE, QUERY_TILES, Readers, Walk
from tests.kernels.ssa.clouds import plan_of, random_voxels

PLANS = {
    "batch": plan_of(random_voxels([70, 0, 5, 300], 20), batch_size=5),
    "full block": plan_of(random_voxels([512], 8)),
}


def chosen(plan: SSAPlan, top_k: int) -> Tensor:
    """Blocks of the own sample, drawn, ascending, fewer than asked for here and there."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.full((plan.tokens, 2, top_k), -1, dtype=torch.int32)
    bounds, first = plan.cu_seqlens.tolist(), plan.blocks.of_sample.tolist()
    for b in range(plan.batch_size):
        for row in range(bounds[b], bounds[b + 1]):
            for g in range(2):
                mine = torch.randperm(first[b + 1] - first[b], generator=generator)
                mine = mine[: 1 + row % top_k]
                blocks[row, g, : len(mine)] = (mine.sort().values + first[b]).int()
    return blocks


@pytest.mark.parametrize("queries", QUERY_TILES)
@pytest.mark.parametrize("top_k", [1, 4])
@pytest.mark.parametrize("name", PLANS)
def test_a_walk_visits_what_its_queries_chose(name: str, top_k: int, queries: int) -> None:
    plan = PLANS[name]
    blocks = chosen(plan, top_k)
    walk = selection_walk(blocks, plan, queries)
    starts = plan.blocks.starts.tolist()
    for g, (tile, (first, behind)) in itertools.product(range(2), enumerate(walk.tiles.tolist())):
        wanted: dict[int, int] = {}
        for bit, row in enumerate(range(first, behind)):
            for block in blocks[row, g].tolist():
                if block >= 0:
                    wanted[block] = wanted.get(block, 0) | 1 << bit
        runs = [(starts[b], starts[b + 1], bits) for b, bits in sorted(wanted.items())]
        got = [tuple(run) for run in walk.runs[:, g, tile].T.tolist()]
        assert got[: len(runs)] == runs and set(got[len(runs) :]) <= {(0, 0, 0)}
        assert walk.steps[g, tile] == sum(-(-(b - a) // KEY_TILE) for a, b, _ in runs)


@pytest.mark.parametrize("share", [4, 2048])
@pytest.mark.parametrize("name", PLANS)
def test_readers_are_those_who_chose_the_block(name: str, share: int) -> None:
    plan = PLANS[name]
    blocks = chosen(plan, 3)
    readers = selection_readers(blocks, plan, share)
    for g, tile in itertools.product(range(2), range(plan.block_tiles.count)):
        block = int(plan.block_tiles.run[tile])
        wanted = [row for row in range(plan.tokens) if block in blocks[row, g].tolist()]
        begin, end = readers.part[g, tile].tolist()
        assert readers.rows[begin:end].tolist() == wanted
    assert items(readers, 2) == [
        [
            t
            for t in range(plan.block_tiles.count)
            for _ in range(-(-_length(readers, g, t) // share))
        ]
        for g in range(2)
    ]


def test_dense_tables_let_every_row_read_its_run() -> None:
    plan = PLANS["batch"]
    samples, cells = plan.cu_seqlens.tolist(), plan.cells.of_sample.tolist()
    for queries in QUERY_TILES:
        walk = plan.compression.walk(queries)
        for tile, (first, behind) in enumerate(walk.tiles.tolist()):
            (b,) = [b for b in range(5) if samples[b] <= first and behind <= samples[b + 1]]
            assert walk.runs[:2, 0, tile, 0].tolist() == cells[b : b + 2]
            assert int(walk.runs[2, 0, tile, 0]) & (1 << queries) - 1 == (1 << queries) - 1
            assert walk.steps[0, tile] == -(-(cells[b + 1] - cells[b]) // KEY_TILE)
    readers = plan.compression.readers
    for tile, (first, _) in enumerate(readers.tiles.tolist()):
        (b,) = [b for b in range(5) if cells[b] <= first < cells[b + 1]]
        assert readers.part[0, tile].tolist() == samples[b : b + 2]


def items(readers: Readers, groups: int) -> list[list[int]]:
    """Tiles of the work items of each group; idle items behind the last are left out."""
    tiles = len(readers.tiles)
    found = []
    for g in range(groups):
        mine = readers.item_tile[g].tolist()
        real = [tile for tile in mine if tile < tiles]
        assert mine[len(real) :] == [tiles] * (len(mine) - len(real)), "idle items come last"
        assert readers.first_item[g].tolist() == [
            sum(t < tile for t in real) for tile in range(tiles + 1)
        ]
        found.append(real)
    return found


def _length(readers: Readers, group: int, tile: int) -> int:
    begin, end = readers.part[group, tile].tolist()
    return int(end - begin)


def test_a_walk_has_a_last_run_for_nothing() -> None:
    walk: Walk = selection_walk(chosen(PLANS["batch"], 4), PLANS["batch"], 4)
    assert walk.runs.shape[3] == 4 * 4 + 1 and not walk.runs[..., -1].any()

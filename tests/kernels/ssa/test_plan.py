"""The plan: every table against a plain loop over dictionaries, and every complaint."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels.ssa import build_plan, sort_coords
from kernels.ssa.tables import KEY_TILE, QUERY_TILES
from tests.kernels.ssa.clouds import random_voxels, shell, torus

CASES = {
    "one voxel": torch.tensor([[0, 5, 9, 2]]),
    "random": random_voxels([150, 0, 700]),
    "shell": shell(11.0),
    "torus": torus(9.0, 4.0),
    "full block": random_voxels([512], resolution=8),
    "one per block": torch.tensor([[0, 8 * i, 8 * j, 3] for i in range(3) for j in range(3)]),
}


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize("name", CASES)
def test_runs_are_the_occupied_blocks_and_cells(name: str, cell: int) -> None:
    coords = sort_coords(CASES[name])[0]
    plan = build_plan(coords, cell=cell)
    rows = [tuple(row) for row in coords.tolist()]
    for runs, edge in ((plan.blocks, 8), (plan.cells, cell)):
        seen: dict[tuple[int, ...], list[int]] = {}
        for i, (b, x, y, z) in enumerate(rows):
            seen.setdefault((b, x // edge, y // edge, z // edge), []).append(i)
        assert runs.count == len(seen) and runs.longest == max(map(len, seen.values()))
        for number, members in enumerate(seen.values()):  # dictionaries keep the order of rows
            assert members == list(range(runs.starts[number], runs.starts[number + 1]))
            assert runs.of_row[members].tolist() == [number] * len(members)
        per_sample = [sum(key[0] == b for key in seen) for b in range(plan.batch_size)]
        assert runs.of_sample.diff().tolist() == per_sample and runs.most == max(per_sample)
    first_rows = plan.cells.starts[:-1].long()
    assert torch.equal(plan.block_of_cell, plan.blocks.of_row[first_rows])
    local = [(x % cell * cell + y % cell) * cell + z % cell for _, x, y, z in rows]
    assert plan.place_in_cell.tolist() == local


@pytest.mark.parametrize("name", CASES)
def test_tiles_never_reach_over_a_border(name: str) -> None:
    plan = build_plan(sort_coords(CASES[name])[0])
    borders = [(plan.block_tiles, plan.blocks.starts, KEY_TILE)]
    borders += [(t, plan.cu_seqlens, n) for t, n in zip(plan.samples, QUERY_TILES, strict=True)]
    for tiles, starts, size in borders:
        wanted = [
            (first, min(first + size, behind), run)
            for run, (begin, behind) in enumerate(itertools.pairwise(starts.tolist()))
            for first in range(begin, behind, size)
        ]
        got = zip(*tiles.bounds.T.tolist(), tiles.run.tolist(), strict=True) if wanted else []
        assert list(got) == wanted and tiles.count == len(wanted)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("name", CASES)
def test_windows(name: str, shift: int) -> None:
    coords = sort_coords(CASES[name])[0]
    plan = build_plan(coords).with_shift(shift)
    table = plan.near
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (b, x, y, z) in enumerate(coords.tolist()):
        key = (b, (x + shift) // 8, (y + shift) // 8, (z + shift) // 8)
        groups.setdefault(key, []).append(i)
    starts = table.starts.tolist()
    got = [table.order[a:b].tolist() for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert sorted(got) == sorted(groups.values())
    assert torch.equal(table.inverse[table.order], torch.arange(plan.tokens))


def test_the_other_shift_shares_every_table() -> None:
    plan = build_plan(shell(9.0), shift=4)
    other = plan.with_shift(0)
    assert other.shift == 0 and other.windows is plan.windows and other.blocks is plan.blocks
    with pytest.raises(ValueError, match="shift: got 3, this plan has 0 or 4"):
        plan.with_shift(3)


def test_empty_samples_and_an_empty_batch() -> None:
    plan = build_plan(torch.tensor([[1, 0, 0, 0]]), batch_size=3)
    assert plan.cu_seqlens.tolist() == [0, 0, 1, 1]
    assert plan.blocks.of_sample.tolist() == [0, 0, 1, 1]
    nothing = build_plan(torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    assert nothing.tokens == nothing.num_cells == nothing.blocks.longest == 0
    assert nothing.cu_seqlens.tolist() == [0, 0, 0]


GOOD = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]])


@pytest.mark.parametrize(
    ("coords", "options", "message"),
    [
        (GOOD.flip(0), {}, "row 0.*must not come before"),
        (GOOD[[0, 0]], {}, "occurs twice"),
        (torch.tensor([[0, -1, 0, 0]]), {}, "got -1.*negative"),
        (torch.tensor([[0, 1 << 16, 0, 0]]), {}, "below 65536"),
        (torch.tensor([[1 << 15, 0, 0, 0]]), {}, "below 32768"),
        (GOOD[:, :3], {}, r"must be an integer tensor \[N, 4\]"),
        (GOOD.float(), {}, r"must be an integer tensor \[N, 4\]"),
        (GOOD, {"cell": 3}, "block: got 8, it must be a multiple of cell = 3"),
        (GOOD, {"cell": 2}, "cell: got 2, it must be 4 or 8"),
        (GOOD, {"block": 16}, "block: got 16"),
        (GOOD, {"window": 7}, "window: got 7"),
        (GOOD, {"shift": 2}, "shift: got 2, it must be 0 or 4"),
        (GOOD, {"batch_size": 0}, "batch_size: got 0, coords_N4 has sample 0"),
    ],
)
def test_complaints(coords: torch.Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_plan(coords, **options)

"""Index plans against a dictionary of coordinates."""

from __future__ import annotations

import pytest
import torch

from kernels.sparse_conv import plan
from kernels.sparse_conv.plan import neighbour_rows, offsets, upsample_rows, upsample_taps
from tests.sparse.grids import full_grid, grid_of, random_grid
from threed_gen.sparse.voxel_grid import VoxelGrid


def looked_up(grid: VoxelGrid) -> torch.Tensor:
    voxels = [tuple(row) for row in grid.coords.tolist()]
    where = {voxel: row for row, voxel in enumerate(voxels)}
    steps = [(0, *step) for step in offsets().tolist()]
    rows = [
        [where.get(tuple(map(sum, zip(v, s, strict=True))), len(voxels)) for s in steps]
        for v in voxels
    ]
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 27)


def test_offsets_are_as_documented() -> None:
    for k, (dx, dy, dz) in enumerate(offsets().tolist()):
        assert (dx, dy, dz) == (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)


@pytest.mark.parametrize(
    "grid",
    [
        random_grid(4, [30]),
        random_grid(8, [100, 0, 512]),
        random_grid(20, [300, 900, 0, 1], seed=3),
        random_grid(64, [2000], seed=4),
        full_grid(16, 2),
        grid_of([[0, 0, 0, 0]], 8, 1),
        grid_of([[0, 7, 7, 7], [0, 8, 8, 8], [1, 15, 15, 15], [2, 0, 0, 0]], 16, 3),
        grid_of([], 16, 2),
    ],
    ids=str,
)
def test_neighbours_are_those_of_a_dictionary(grid: VoxelGrid) -> None:
    rows = neighbour_rows(grid.coords, grid.resolution)
    assert rows.dtype == torch.int32
    assert torch.equal(rows, looked_up(grid))


def test_far_ends_of_the_grid_are_no_neighbours() -> None:
    grid = grid_of([[0, 0, 0, 31], [0, 0, 1, 0], [0, 7, 31, 31], [0, 8, 0, 0]], 32, 1)
    rows = neighbour_rows(grid.coords, 32)
    assert (rows != grid.num_voxels).sum() == grid.num_voxels  # each knows itself and nobody else


def test_many_rows_are_done_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = random_grid(16, [500, 700])
    whole = neighbour_rows(grid.coords, 16)
    monkeypatch.setattr(plan, "ROWS_AT_ONCE", 64)
    assert torch.equal(neighbour_rows(grid.coords, 16), whole)


def test_every_kernel_entry_lands_in_one_tap_of_each_child() -> None:
    _, fold = upsample_taps()
    assert torch.equal(fold.view(8, 8, 27).sum(1), torch.ones(8, 27, dtype=torch.float64))
    assert sorted(fold.view(8, 8, 27)[0].sum(1).tolist()) == [1, 2, 2, 2, 4, 4, 4, 8]


def test_backward_table_is_the_inverse_of_the_forward_table() -> None:
    grid = random_grid(6, [60, 0, 40])
    total = grid.num_voxels
    forward, backward = upsample_rows(grid.neighbour_rows())
    reads = {
        (int(forward[c, m, t]), c, t, c * total + m)
        for c in range(8)
        for m in range(total)
        for t in range(8)
        if forward[c, m, t] != total
    }
    read_by = {
        (m, ct // 8, ct % 8, int(backward[m, ct]))
        for m in range(total)
        for ct in range(64)
        if backward[m, ct] != 8 * total
    }
    assert reads == read_by

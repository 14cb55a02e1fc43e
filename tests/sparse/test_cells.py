"""Compression cells as a voxel grid: the same cells, and a way there and back."""

from __future__ import annotations

import pytest
import torch

from kernels.ssa import build_plan
from tests.sparse.grids import features, random_grid
from threed_gen.sparse.cells import cell_grid, prepare_cells
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize(("resolution", "counts"), [(70, [90, 0, 300]), (8, [0, 1]), (8, [0])])
def test_rows_of_the_plan_and_of_the_grid(resolution: int, counts: list[int], cell: int) -> None:
    grid = random_grid(resolution, counts)
    plan = build_plan(grid.coords, cell=cell, batch_size=grid.batch_size)
    cells = cell_grid(grid, plan)
    # In the order of the plan: dictionaries keep the order of the tokens.
    seen = dict.fromkeys(
        (b, x // cell, y // cell, z // cell) for b, x, y, z in grid.coords.tolist()
    )
    assert [tuple(row) for row in cells.grid.coords[cells.inverse].tolist()] == list(seen)
    again, _ = VoxelGrid.from_coords(
        cells.grid.coords, cells.grid.resolution, grid.batch_size, sort=False
    )  # canonical order, in range
    assert again.seqlens == cells.grid.seqlens
    assert cells.grid.resolution == -(-resolution // cell)
    feats = features(again, 3)
    assert torch.equal(cells.leave(cells.enter(feats)), feats)
    assert torch.equal(cells.enter(feats).feats[cells.inverse], feats)


def test_there_and_back_in_the_gradient() -> None:
    grid = random_grid(24, [40, 0, 30])
    cells = cell_grid(grid, build_plan(grid.coords, cell=4))
    feats = features(cells.grid, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: cells.enter(t).feats, feats)
    assert torch.autograd.gradcheck(lambda t: cells.leave(SparseTensor(t, cells.grid)), feats)


def test_built_once_and_moved_with_the_grid() -> None:
    grid = random_grid(24, [40, 0, 30])
    plan = build_plan(grid.coords, cell=4)
    prepare_cells(grid, plan)
    cells = cell_grid(grid, plan)
    assert cell_grid(grid, plan.with_shift(4)) is cells
    assert cell_grid(grid, build_plan(grid.coords, cell=8)) is not cells
    moved = cell_grid(grid.to("meta"), plan)
    assert moved.order.is_meta and moved.grid.neighbour_rows().is_meta
    assert moved.grid.seqlens == cells.grid.seqlens

"""The order of voxels, the checks at the door, and what the grid caches."""

from __future__ import annotations

import pickle

import pytest
import torch

from kernels.voxel_order import CANONICAL_OF_RASTER, canonical_key
from tests.sparse.grids import features, full_grid, grid_of, random_grid
from threed_gen.sparse.voxel_grid import RASTER_TO_CANONICAL, VoxelGrid


def described_order(coords: torch.Tensor) -> list[tuple[int, ...]]:
    """The documented order, written down as plain sort keys."""
    return [
        (b, *(v // 8 for v in xyz), *(v // 4 % 2 for v in xyz), *(v % 4 for v in xyz))
        for b, *xyz in coords.tolist()
    ]


def test_rows_are_sorted_by_batch_block_cell_voxel() -> None:
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(0, 40, (3000, 4), generator=generator) % torch.tensor([3, 40, 40, 40])
    coords = torch.unique(coords, dim=0)[torch.randperm(len(torch.unique(coords, dim=0)))]
    grid, order = VoxelGrid.from_coords(coords, 40, 3)
    assert torch.equal(coords[order].int(), grid.coords)
    keys = described_order(grid.coords)
    assert keys == sorted(keys)
    assert grid.seqlens == [(coords[:, 0] == b).sum().item() for b in range(3)]
    assert grid.cu_seqlens.tolist() == [0, *torch.tensor(grid.seqlens).cumsum(0).tolist()]


def test_largest_coordinates_keep_their_order() -> None:
    coords = torch.tensor([[0, 65535, 65535, 65535], [32766, 0, 0, 0], [0, 65535, 65535, 65528]])
    grid, order = VoxelGrid.from_coords(coords, 65536, 32767)
    assert order.tolist() == [2, 0, 1]
    assert (canonical_key(grid.coords).diff() > 0).all()


def test_raster_to_canonical_gathers_raster_values_into_canonical_order() -> None:
    grid, order = VoxelGrid.from_bricks([torch.zeros(1, 3, dtype=torch.int32)], 8)
    raster = grid.coords[:, 1] * 64 + grid.coords[:, 2] * 8 + grid.coords[:, 3]
    assert torch.equal(raster.long(), RASTER_TO_CANONICAL)
    assert torch.equal(order, RASTER_TO_CANONICAL)
    assert torch.equal(RASTER_TO_CANONICAL[CANONICAL_OF_RASTER], torch.arange(512))


def test_from_bricks_equals_from_coords() -> None:
    torch.manual_seed(0)
    bricks = [
        torch.tensor([[0, 0, 1], [0, 2, 0], [3, 3, 3]]),
        torch.zeros(0, 3, dtype=torch.long),
        torch.tensor([[1, 1, 1]]),
    ]
    values = [torch.randn(len(b), 512) for b in bricks]
    occupied = [v > 0.3 for v in values]
    grid, order = VoxelGrid.from_bricks(bricks, 32, occupied)
    raster = torch.arange(512)
    local = torch.stack([raster // 64, raster // 8 % 8, raster % 8], dim=1)
    coords, kept = [], []
    for sample, (brick, value, keep) in enumerate(zip(bricks, values, occupied, strict=True)):
        voxels = (brick[:, None] * 8 + local)[keep]
        coords.append(torch.cat([torch.full((len(voxels), 1), sample), voxels], dim=1))
        kept.append(value[keep])
    plain, plain_order = VoxelGrid.from_coords(torch.cat(coords), 32, 3)
    assert torch.equal(grid.coords, plain.coords)
    assert grid.seqlens == plain.seqlens
    flat = torch.cat([v.reshape(-1) for v in values])
    assert torch.equal(flat[order], torch.cat(kept)[plain_order])


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([[0, -1, 0, 0]], "negative voxel"),
        ([[-1, 0, 0, 0]], "negative voxel"),
        ([[0, 0, 8, 0]], "outside a grid of 8"),
        ([[2, 0, 0, 0]], "sample 2 in a batch of 2"),
        ([[0, 1, 2, 3], [1, 1, 2, 3], [0, 1, 2, 3]], "the same voxel occurs twice"),
        ([[0, 1, 2]], r"integers \[N, 4\]"),
        ([[0.0, 1.0, 2.0, 3.0]], r"integers \[N, 4\]"),
    ],
)
def test_bad_voxels_are_named(coords: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelGrid.from_coords(torch.tensor(coords), 8, 2)


def test_unsorted_rows_are_refused_unless_sorted() -> None:
    coords = torch.tensor([[0, 0, 0, 5], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="not in canonical order"):
        VoxelGrid.from_coords(coords, 8, 1, sort=False)
    grid, order = VoxelGrid.from_coords(coords.flip(0), 8, 1, sort=False)
    assert order.tolist() == [0, 1]
    assert grid.num_voxels == 2


@pytest.mark.parametrize(
    ("bricks", "message"),
    [
        ([[1, 0, 0], [0, 0, 0]], "unique and sorted"),
        ([[0, 0, 0], [0, 0, 0]], "unique and sorted"),
        ([[0, 0, 2]], "brick .* outside a grid of 2"),
        ([[0, -1, 0]], "negative brick"),
    ],
)
def test_bad_bricks_are_named(bricks: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelGrid.from_bricks([torch.tensor(bricks)], 16)


def test_mask_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="occupied"):
        VoxelGrid.from_bricks([torch.zeros(1, 3).long()], 16, [torch.ones(2, 512).bool()])
    with pytest.raises(ValueError, match="multiple of 8"):
        VoxelGrid.from_bricks([torch.zeros(1, 3).long()], 20)


@pytest.mark.parametrize("grid", [random_grid(16, [300, 0, 40]), full_grid(8), grid_of([], 8, 2)])
def test_pooling_tables(grid: VoxelGrid) -> None:
    table = grid.pooled()
    cells = sorted({(b, x // 2, y // 2, z // 2) for b, x, y, z in grid.coords.tolist()})
    assert sorted(map(tuple, table.coarse.coords.tolist())) == cells
    assert (canonical_key(table.coarse.coords).diff() > 0).all()
    expected = grid.coords.clone()
    expected[:, 1:] //= 2
    assert torch.equal(table.coarse.coords[table.parent], expected)
    for cell, children in enumerate(table.children.tolist()):
        present = [child for child in children if child != grid.num_voxels]
        assert sorted(present) == torch.nonzero(table.parent == cell)[:, 0].tolist()
        for slot, child in enumerate(children):
            low = [slot >> 2, slot >> 1 & 1, slot & 1]
            assert child == grid.num_voxels or (grid.coords[child, 1:] & 1).tolist() == low
        assert table.count[cell] == len(present)


def test_subdivision_has_all_children_in_order() -> None:
    grid = random_grid(7, [60, 0, 20])
    table = grid.subdivided()
    assert table.fine.resolution == 14
    assert table.fine.seqlens == [8 * n for n in grid.seqlens]
    assert (canonical_key(table.fine.coords).diff() > 0).all()
    halved = table.fine.coords.clone()
    halved[:, 1:] //= 2
    assert torch.equal(halved, grid.coords[table.parent])
    for child in range(8):
        corner = torch.tensor([0, child >> 2, child >> 1 & 1, child & 1])
        scale = torch.tensor([1, 2, 2, 2])
        assert torch.equal(
            table.fine.coords[table.children[:, child]].long(), grid.coords * scale + corner
        )


def test_three_pools_give_the_bricks_and_three_subdivisions_the_voxels() -> None:
    """A brick list, its band voxels, and the decoder's rows fit together."""
    bricks = torch.tensor([[0, 1, 0], [0, 1, 3], [1, 0, 0], [2, 2, 3], [3, 0, 1]])
    occupied = torch.rand(5, 512, generator=torch.Generator().manual_seed(0)) < 0.2
    grid, _ = VoxelGrid.from_bricks([bricks], 32, [occupied])
    latent = grid.pooled().coarse.pooled().coarse.pooled().coarse
    assert sorted(latent.coords[:, 1:].tolist()) == bricks.tolist()
    fine = latent.subdivided().fine.subdivided().fine.subdivided().fine
    assert torch.equal(fine.coords, VoxelGrid.from_bricks([bricks], 32)[0].coords)


def test_tables_are_built_once_and_travel_together() -> None:
    grid = random_grid(16, [200, 30])
    latent = grid.pooled().coarse
    assert grid.pooled() is grid.pooled()
    assert latent.neighbour_rows() is latent.neighbour_rows()
    latent.windows(8, 4)
    latent.subdivided().fine.batch_index()
    grid.cached("spconv", dict)["pairs"] = "on the old device"
    moved = grid.to("meta")  # a device without values: nothing can be rebuilt there
    far = moved.pooled().coarse
    assert far.device.type == "meta"
    assert far.neighbour_rows().shape == latent.neighbour_rows().shape
    assert far.windows(8, 4).packed.device.type == "meta"
    assert far.windows(8, 4).buckets[0].length == latent.windows(8, 4).buckets[0].length
    assert far.subdivided().fine.batch_index().device.type == "meta"
    assert far.seqlens == latent.seqlens
    assert moved.cached("spconv", dict) == {}
    assert grid.to("cpu") is grid


def test_a_grid_crosses_processes_with_its_tables() -> None:
    grid = random_grid(16, [200])
    grid.pooled().coarse.windows(8, 0)
    copy = pickle.loads(pickle.dumps(grid))
    assert torch.equal(copy.coords, grid.coords)
    assert set(copy.pooled().coarse._cache) == set(grid.pooled().coarse._cache)


def test_neighbours_put_the_offset_first() -> None:
    grid = random_grid(8, [50])
    assert grid.neighbours().shape == (27, 50)
    assert torch.equal(grid.neighbours()[13], torch.arange(50, dtype=torch.int32))


def test_split_gives_each_sample_its_rows() -> None:
    from threed_gen.sparse.sparse_tensor import SparseTensor

    grid = random_grid(8, [5, 0, 7])
    x = SparseTensor(features(grid, 2), grid)
    assert [len(part) for part in x.split()] == [5, 0, 7]

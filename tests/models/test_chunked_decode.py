"""Decoding cube by cube gives what decoding at once gives."""

from __future__ import annotations

import time

import pytest
import torch

from tests.models.shapes import batch, nothing, sphere, tiny_model
from tests.sparse.grids import grid_of, random_grid
from threed_gen.models import chunked_decode
from threed_gen.models.chunked_decode import chunked_tail, through_windows
from threed_gen.models.ss_vae import SSVAE
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid


@pytest.mark.parametrize("chunk", [3])
def test_chunks_equal_the_whole(chunk: int) -> None:
    model, side = tiny_model(), 40
    x = batch([sphere(side, 0.4), nothing(), sphere(side, 0.3, 0.3)], side)
    z = model.encode(x).mean
    whole, pieces = model.decode(z), model.decode(z, chunk=chunk)
    torch.testing.assert_close(pieces.feats, whole.feats, rtol=0, atol=1e-10)
    assert torch.equal(pieces.grid.coords, whole.grid.coords)
    assert pieces.grid.seqlens == whole.grid.seqlens
    assert not pieces.feats.requires_grad


def latents(grid: VoxelGrid, seed: int = 0) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(grid.num_voxels, 3, generator=generator, dtype=torch.float64)
    return SparseTensor(feats, grid)


def agree(model: SSVAE, z: SparseTensor, chunk: int) -> None:
    with torch.no_grad():
        whole, pieces = model.decode(z), model.decode(z, chunk=chunk)
    assert torch.equal(pieces.grid.coords, whole.grid.coords)
    assert torch.equal(pieces.grid.cu_seqlens, whole.grid.cu_seqlens)
    assert (pieces.grid.resolution, pieces.grid.batch_size, pieces.grid.seqlens) == (
        whole.grid.resolution, whole.grid.batch_size, whole.grid.seqlens,
    )  # fmt: skip
    torch.testing.assert_close(pieces.feats, whole.feats, rtol=0, atol=1e-10)


def l_shape(length: int) -> list[list[int]]:
    """Three arms one cell thick along the grid's edges: long in a corner, empty between."""
    arms = [[0, i, 0, 0] for i in range(length)]
    return arms + [[0, 0, i, 0] for i in range(1, length)] + [[0, 0, 0, i] for i in range(1, 5)]


@pytest.mark.parametrize("chunk", [1, 5, 32])
def test_borders_corners_and_samples_of_any_size(chunk: int) -> None:
    """Cells at all borders; a sample without cells, of one cell, an L, and scattered ones."""
    side = 12
    corners = [[1, x, y, z] for x in (0, side - 1) for y in (0, side - 1) for z in (0, side - 1)]
    scattered = random_grid(side, [0, 0, 0, 30]).coords.tolist()
    grid = grid_of([*l_shape(side), *corners, *scattered, [4, 5, 5, 5]], side, 6)
    agree(tiny_model(), latents(grid), chunk)


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 4, 7), (7, 7, 7)])
def test_one_cell(place: tuple[int, int, int]) -> None:
    agree(tiny_model(), latents(grid_of([[0, *place]], 8, 1)), 4)


def test_transformer_in_groups_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups, of windows that are larger and smaller than a group; and a single one."""
    z, decoder = latents(random_grid(24, [300, 500])), tiny_model(decoder_blocks=3).decoder
    with torch.no_grad():
        whole = decoder.mix(z).feats
        for tokens in (1, 40, 10_000):
            monkeypatch.setattr(chunked_decode, "TOKENS", tokens)
            pieces = decoder.mix_in_pieces(z).feats
            torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-10)


def test_a_window_cut_in_two_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    z = latents(random_grid(8, [200]))
    decoder = tiny_model().decoder

    def cut(grid: VoxelGrid, size: int, shift: int) -> list[torch.Tensor]:
        return list(torch.arange(grid.num_voxels).split(50))

    monkeypatch.setattr(chunked_decode, "_whole_windows", cut)
    with torch.no_grad():
        pieces, whole = decoder.mix_in_pieces(z).feats, decoder.mix(z).feats
    assert not torch.allclose(pieces, whole, rtol=0, atol=1e-9)


def test_groups_hold_whole_windows_and_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_decode, "TOKENS", 64)
    grid, seen, sizes = random_grid(32, [700, 300]), [], []

    def block(part: SparseTensor) -> SparseTensor:
        seen.append(part.feats.clone())
        windows = part.grid.windows(8, 4)
        sizes.append((part.grid.num_voxels, windows.longest))
        return part.replace(part.feats + 1000)

    h = SparseTensor(torch.arange(1000.0)[:, None], grid)
    through_windows(h, block, 8, 4)
    assert torch.cat(seen).flatten().sort().values.tolist() == list(range(1000))
    assert torch.equal(h.feats[:, 0], torch.arange(1000.0) + 1000)
    assert len(sizes) > 10 and all(n <= 64 or n == longest for n, longest in sizes)


@pytest.mark.parametrize("chunk", [2, 7])
def test_a_cube_is_shown_with_its_halo_and_no_more(chunk: int) -> None:
    """Each call of the tail: one sample, the cells of one cube and those within 3 of it."""
    grid, seen = random_grid(12, [90, 0, 40]), []

    def tail(part: SparseTensor) -> SparseTensor:
        assert part.grid.batch_size == 1 and not part.grid.coords[:, 0].any()
        rows = part.feats[:, 0].long()
        assert torch.equal(grid.coords[rows, 1:], part.grid.coords[:, 1:])
        seen.append(frozenset(rows.tolist()))
        fine = chunked_decode._all_voxels(part.grid, torch.arange(len(rows)))
        return SparseTensor(torch.zeros(fine.num_voxels, 1), fine)

    chunked_tail(SparseTensor(torch.arange(130.0)[:, None], grid), tail, chunk)
    cubes = torch.cat([grid.coords[:, :1], grid.coords[:, 1:] // chunk], dim=1).unique(dim=0)
    expected = []
    for sample, *cube in cubes.tolist():
        low = torch.tensor(cube) * chunk
        near = (grid.coords[:, 1:] >= low - 3) & (grid.coords[:, 1:] < low + chunk + 3)
        rows = torch.nonzero(near.all(1) & (grid.coords[:, 0] == sample))[:, 0]
        expected.append(frozenset(rows.tolist()))
    assert sorted(map(sorted, seen)) == sorted(map(sorted, expected))


def test_search_for_cubes_is_nearly_linear() -> None:
    """Eight times the cells, on eight times the cubes: not 64 times the time."""

    def seconds(side: int) -> float:
        grid = random_grid(side, [side * side])
        start = time.process_time()
        chunked_decode._cubes(grid, 4)
        return time.process_time() - start

    small, large = (min(seconds(side) for _ in range(3)) for side in (40, 113))
    assert large < 30 * max(small, 1e-3)


def test_float32_chunks_agree_to_a_millionth() -> None:
    model = tiny_model().float()
    x = batch([sphere(32, 0.4)], 32)
    z = model.encode(x.replace(x.feats.float())).mean
    difference = model.decode(z).feats - model.decode(z, chunk=2).feats
    assert difference.abs().max() <= 1e-6


def test_a_smaller_halo_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_decode, "HALO", 2)
    model = tiny_model()
    z = model.encode(batch([sphere(40, 0.4)], 40)).mean
    assert not torch.allclose(model.decode(z).feats, model.decode(z, chunk=3).feats, atol=1e-12)


def test_nothing_to_decode() -> None:
    model = tiny_model()
    z = model.encode(batch([nothing()], 32)).mean
    assert model.decode(z, chunk=4).feats.shape == (0, 1)


def test_chunk_must_be_positive() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        model.decode(model.encode(batch([sphere(32, 0.3)], 32)).mean, chunk=0)

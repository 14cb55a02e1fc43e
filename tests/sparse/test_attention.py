"""Window attention against a masked dense softmax, for both shifts."""

from __future__ import annotations

import pytest
import torch

from tests.sparse.grids import features, full_grid, grid_of, random_grid
from threed_gen.sparse import windows as windows_module
from threed_gen.sparse.attention import _sorted, window_attention, window_attention_reference
from threed_gen.sparse.voxel_grid import VoxelGrid

GRIDS = {
    "random": random_grid(20, [150, 300]),
    "with empty samples": random_grid(20, [0, 120, 0, 60, 0], seed=2),
    "one full window": full_grid(4),
    "equal windows": full_grid(8, 2),
    "one voxel": grid_of([[0, 5, 5, 5]], 8, 1),
    "clustered": grid_of([[0, 0, 0, i] for i in range(9)] + [[0, 15, 15, 15]], 16, 1),
}


def random_qkv(grid: VoxelGrid) -> torch.Tensor:
    return features(grid, 3 * 2 * 8).view(-1, 3, 2, 8)


@pytest.mark.parametrize("size", [3, 8])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_equals_masked_dense_softmax_with_gradient(name: str, shifted: bool, size: int) -> None:
    grid, shift = GRIDS[name], size // 2 * shifted
    qkv = random_qkv(grid).requires_grad_()
    out = window_attention(qkv, grid.windows(size, shift))
    expected = window_attention_reference(qkv, grid, size, shift)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    upstream = features(grid, 16, seed=3).view(-1, 2, 8)
    (got,) = torch.autograd.grad(out, qkv, upstream)
    (want,) = torch.autograd.grad(expected, qkv, upstream)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_the_reference_by_hand() -> None:
    """Cells 6 and 9 share a window only when 4 is added first: 10 // 8 = 13 // 8 = 1."""
    grid = grid_of([[0, 6, 0, 0], [0, 9, 0, 0], [1, 9, 0, 0]], 16, 2)
    qkv = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    qkv[:, 2, 0, 0] = torch.tensor([1.0, 3.0, 7.0])
    assert window_attention_reference(qkv, grid, 8, 0)[:, 0, 0].tolist() == [1.0, 3.0, 7.0]
    assert window_attention_reference(qkv, grid, 8, 4)[:, 0, 0].tolist() == [2.0, 2.0, 7.0]


@pytest.mark.parametrize("shift", [0, 4])
def test_window_tables(shift: int) -> None:
    grid = random_grid(24, [400, 0, 250])
    table = grid.windows(8, shift)
    ids = windows_module.window_key(grid.coords, 8, shift)
    lengths = table.cu_seqlens.diff().tolist()
    runs = torch.split(ids[table.order], lengths)
    assert all(len(set(run.tolist())) == 1 for run in runs)
    assert len({int(run[0]) for run in runs}) == len(runs) == len(set(ids.tolist()))
    assert table.longest == max(lengths)
    assert torch.equal(table.order[table.inverse], torch.arange(grid.num_voxels))
    assert torch.equal(table.packed[table.place], torch.arange(grid.num_voxels))
    padded = sum(bucket.count * bucket.length for bucket in table.buckets)
    assert padded == len(table.packed) <= 2 * grid.num_voxels + 8 * len(lengths)


def test_unshifted_windows_of_eight_need_no_sorting() -> None:
    assert random_grid(32, [500, 100]).windows(8, 0).sorted_already


@pytest.mark.parametrize("shift", [0, 4])
def test_the_variable_length_path_sorts_and_unsorts(shift: int) -> None:
    """The GPU path with a plain stand-in for the fused kernel."""

    def varlen(q, k, v, cu_q, cu_k, longest_q, longest_k):
        assert q.shape == k.shape == v.shape
        assert longest_q == longest_k == int(cu_q.diff().max())
        parts = []
        for start, stop in zip(cu_q[:-1].tolist(), cu_k[1:].tolist(), strict=True):
            score = torch.einsum("nhd,mhd->hnm", q[start:stop], k[start:stop]) / q.shape[2] ** 0.5
            parts.append(torch.einsum("hnm,mhd->nhd", score.softmax(-1), v[start:stop]))
        return torch.cat(parts)

    grid = GRIDS["random"]
    qkv = random_qkv(grid)
    out = _sorted(qkv, grid.windows(8, shift), varlen)
    expected = window_attention_reference(qkv, grid, 8, shift)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_empty_grid() -> None:
    grid = grid_of([], 8, 2)
    assert window_attention(torch.zeros(0, 3, 2, 8), grid.windows(8, 4)).shape == (0, 2, 8)


def test_bf16_stays_close_to_float64() -> None:
    grid = GRIDS["random"]
    qkv = random_qkv(grid)
    out = window_attention(qkv.bfloat16(), grid.windows(8, 4))
    expected = window_attention_reference(qkv, grid, 8, 4)
    assert (out.double() - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.parametrize(("size", "shift"), [(0, 0), (8, 8), (8, -1)])
def test_impossible_windows_are_refused(size: int, shift: int) -> None:
    with pytest.raises(ValueError, match="windows: size"):
        random_grid(8, [5]).windows(size, shift)

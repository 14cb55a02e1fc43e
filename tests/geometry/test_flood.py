"""The flood over bricks against the same flood over a dense grid, voxel by voxel."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from threed_gen.geometry import flood
from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.flood import enclosed

R, N = 24, 3


def every_voxel() -> np.ndarray:
    axis = np.arange(R)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def sparse(dense: np.ndarray, listed: np.ndarray) -> VoxelSet:
    """The set as listed bricks; the other bricks must be all alike inside."""
    cut = dense.reshape(N, 8, N, 8, N, 8).transpose(0, 2, 4, 1, 3, 5).reshape(N, N, N, 512)
    assert (cut[~listed].all(axis=1) | ~cut[~listed].any(axis=1)).all()
    bricks = np.argwhere(listed).astype(np.int32)
    return VoxelSet(BrickGrid(bricks, R), cut[listed], cut[..., 0] & ~listed)


def dry_by_hand(free: np.ndarray) -> np.ndarray:
    """Voxels that a walk from outside does not reach, one voxel at a time."""
    wet = np.zeros(np.array(free.shape) + 2, dtype=bool)
    open_ = np.pad(free, 1, constant_values=True)
    queue = deque([(0, 0, 0)])
    wet[0, 0, 0] = True
    while queue:
        x, y, z = queue.popleft()
        for dx, dy, dz in [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]:
            at = (x + dx, y + dy, z + dz)
            inside = all(0 <= v < s for v, s in zip(at, wet.shape, strict=True))
            if inside and open_[at] and not wet[at]:
                wet[at] = True
                queue.append(at)
    return free & ~wet[1:-1, 1:-1, 1:-1]


def random_space(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    listed = rng.random((N, N, N)) < 0.6
    voxels = rng.random((R, R, R)) < rng.uniform(0.25, 0.6)
    bricks = np.kron(rng.random((N, N, N)) < 0.5, np.ones((8, 8, 8), bool))
    return np.where(np.kron(listed, np.ones((8, 8, 8), bool)), voxels, bricks), listed


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_flood_of_a_dense_grid(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "_CHUNK_BRICKS", 5)
    free, listed = random_space(seed)
    expected = dry_by_hand(free)
    found, pieces = enclosed(sparse(free, listed))
    assert expected.any()
    np.testing.assert_array_equal(found.at(every_voxel()), expected)
    assert pieces == number_of_pieces(expected)


def number_of_pieces(voxels: np.ndarray) -> int:
    left, count = voxels.copy(), 0
    while left.any():
        count += 1
        one = np.zeros_like(left)
        one[tuple(np.argwhere(left)[0])] = True
        grown = one
        while True:
            for axis in range(3):
                for way in (1, -1):
                    moved = np.roll(one, way, axis=axis)
                    edge = 0 if way == 1 else -1
                    np.moveaxis(moved, axis, 0)[edge] = False
                    grown = grown | (moved & left)
            if (grown == one).all():
                break
            one = grown
        left &= ~one
    return count


@pytest.mark.parametrize("neck", [0, 1])
def test_a_bottle_is_open_when_its_neck_is(neck: int) -> None:
    free = np.ones((R, R, R), dtype=bool)
    free[2:20, 2:20, 2:20] = False
    free[4:18, 4:18, 4:18] = True  # holds a whole brick that need not be listed
    if neck:
        free[10, 10, 18:20] = True
    listed = np.ones((N, N, N), dtype=bool)
    listed[1, 1, 1] = False
    found, pieces = enclosed(sparse(free, listed))
    assert pieces == 1 - neck
    assert np.count_nonzero(found.at(every_voxel())) == (1 - neck) * 14**3


def test_diagonals_let_nothing_through() -> None:
    free = np.ones((R, R, R), dtype=bool)
    free[8:13, 8:13, 8:13] = False
    free[9:12, 9:12, 9:12] = True
    free[8, 8, 10] = True  # touches the hollow along an edge only
    assert enclosed(sparse(free, np.ones((N, N, N), dtype=bool)))[1] == 1
    free[8, 9, 10] = True
    assert enclosed(sparse(free, np.ones((N, N, N), dtype=bool)))[1] == 0


def test_without_listed_bricks() -> None:
    nothing = np.zeros((N, N, N), dtype=bool)
    cells = np.kron(np.eye(N, dtype=bool)[:, :, None] & nothing, np.ones((8, 8, 8), bool))
    assert enclosed(sparse(~cells, nothing))[1] == 0


@pytest.mark.parametrize("seed", range(2))
def test_neighbourhoods_equal_those_of_a_dense_grid(seed: int) -> None:
    dense, listed = random_space(seed)
    voxels = sparse(dense, listed)
    kept = np.kron(listed, np.ones((8, 8, 8), bool))
    np.testing.assert_array_equal(voxels.at(every_voxel()), dense)
    assert not voxels.at(np.array([[-1, 0, 0], [R, 3, 3], [0, 0, -8]])).any()
    for reach in (1, 2):
        padded = np.pad(dense, reach)
        blocks = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 3)
        some, every = blocks.any(axis=(3, 4, 5)), blocks.all(axis=(3, 4, 5))
        np.testing.assert_array_equal(voxels.grown(reach, 5).at(every_voxel())[kept], some[kept])
        np.testing.assert_array_equal(voxels.shrunk(reach, 5).at(every_voxel())[kept], every[kept])

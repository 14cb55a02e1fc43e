"""The prepared coordinates: what is written is read, and it is what the band rule says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.ssa import coordinates, prepare
from benchmarks.ssa.coordinates import SIZES, CoordinateSet
from kernels.ssa import build_plan
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import BRICK

BAND = 4


def some(name: str, count: int, high: int) -> CoordinateSet:
    flat = np.random.default_rng(0).choice(high**3, count, replace=False)
    xyz = np.stack(np.unravel_index(np.sort(flat), (high,) * 3), axis=1)
    return CoordinateSet(name, "noise", 8 * high, xyz.astype(np.int32))


def test_round_trip(tmp_path: Path) -> None:
    sets = [some("32k", 900, 300), some("8k", 500, 100)]
    path = tmp_path / "deep" / "coordinates.safetensors"
    size = coordinates.save(sets, path)
    assert size == path.stat().st_size < 900 * 6 + 500 * 3 + 1000  # two bytes, and one
    again = coordinates.load(path)
    assert list(again) == ["8k", "32k"]
    for one in sets:
        same = again[one.name]
        assert (same.mesh, same.resolution) == (one.mesh, one.resolution)
        assert same.xyz.dtype == np.int32
        assert np.array_equal(same.xyz, one.xyz)


def test_a_batch_is_what_a_plan_takes() -> None:
    sets = [some("8k", 300, 40), some("16k", 200, 40)]
    plan = build_plan(coordinates.batch(sets), batch_size=2)
    assert plan.cu_seqlens.tolist() == [0, 300, 500]
    rows = coordinates.batch(sets)
    assert torch.equal(rows[:300, 1:].sort(0).values, torch.from_numpy(sets[0].xyz).sort(0).values)


def test_too_much_for_a_gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinates, "LIMIT", 2000)
    path = tmp_path / "coordinates.safetensors"
    with pytest.raises(ValueError, match="more than"):
        coordinates.save([some("8k", 700, 40)], path)
    assert not path.exists()


def test_a_missing_file_names_the_way(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="benchmarks.ssa prepare"):
        coordinates.load(tmp_path / "none")


@pytest.mark.parametrize("resolution", [64, 136])
def test_tokens_are_exactly_those_of_the_band(resolution: int) -> None:
    some = np.random.default_rng(1)
    corner = some.normal(size=(3, 3)) + np.diag([0.0, 9.0, 9.0])  # in no plane of the grid
    crumbs = (some.uniform(0, 9, (60, 1, 3)) + some.normal(size=(60, 3, 3)) / 50).reshape(-1, 3)
    faces = np.arange(3 * 61).reshape(-1, 3)
    mesh = Mesh(np.concatenate([corner, crumbs]), faces)
    distance = TriangleDistance(unit_frame(mesh)[0].triangles)
    side = np.arange(resolution // BRICK)
    bricks = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
    voxels = distance.of_bricks(bricks.astype(np.int32), resolution, BAND / resolution)
    wanted = bricks[np.isfinite(voxels).any(axis=1)]
    assert np.array_equal(prepare.tokens_of(distance, resolution), wanted)


def test_every_size_has_a_mesh_near_its_stage() -> None:
    tokens = {f"mesh {n}": n for n in (32_000, 36_000, 50_000, 60_000, 66_000, 100_000, 150_000)}
    found = prepare.assigned(tokens)
    assert list(found) == list(SIZES)
    assert found["200k"] == "mesh 150000"
    assert found["32k"] == "mesh 32000"
    assert found["8k"] == "mesh 36000"  # at 512³ about a quarter of the tokens
    assert set(found.values()) == set(tokens)  # none is taken twice before all are
    assert set(prepare.assigned({"only": 70_000}).values()) == {"only"}


def test_unusual_meshes_are_left_out() -> None:
    assert prepare.typical({"a": 95, "b": 100, "plate": 57, "c": 105, "machine": 180}) == [
        "a", "b", "c",
    ]  # fmt: skip

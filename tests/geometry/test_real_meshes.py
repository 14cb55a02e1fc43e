"""Public CAD and scan meshes, there and back: long slivers, bad windings, rounding at seams.

Skipped where the folder of meshes is absent; nothing in the project depends on it.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import MESHES, flipped, mesh_positions
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, MeshError, face_areas, is_watertight, signed_volume
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf

CLOSED = [
    "fandisk.obj",
    "1002_tray_bottom.STL",
    "featuretype.STL",
    "octagonal_pocket.ply",
    "busted.STL",
]
OPEN = {"bunny.ply": 125, "suzanne.ply": 42, "CesiumMilkTruck.glb": 8, "chair_model.obj": 34}

pytestmark = pytest.mark.skipif(not MESHES.is_dir(), reason="the folder of meshes is absent")


def samples(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    area = face_areas(mesh)
    face = rng.choice(len(area), count, p=area / area.sum())
    weights = rng.dirichlet([1.0, 1.0, 1.0], count)
    return np.einsum("nij,ni->nj", mesh.triangles[face], weights)


def there_and_back(name: str, resolution: int, count: int) -> float:
    """Checks one mesh at one resolution; returns F@0.001 (longest side scaled to 2)."""
    import igl

    source = load_mesh(MESHES / name)
    sdf = build_sparse_sdf(source, resolution)
    sdf.validate()
    mesh = extract_mesh(sdf)
    assert is_watertight(mesh)
    assert is_consistent(mesh.faces)
    assert signed_volume(mesh) == pytest.approx(abs(signed_volume(source)), rel=0.01)
    forward, _, _ = igl.point_mesh_squared_distance(
        samples(source, count, 0), mesh.vertices, mesh.faces
    )
    backward, _, _ = igl.point_mesh_squared_distance(
        samples(mesh, count, 1), source.vertices, source.faces
    )
    voxel = sdf.scale / resolution
    assert np.sqrt(forward).mean() < 0.1 * voxel
    assert np.sqrt(backward).mean() < 0.1 * voxel
    assert np.sqrt(backward).max() < np.sqrt(3) * voxel
    threshold = 0.001 / 2 * sdf.scale * 0.95
    recall, precision = (
        np.mean(np.sqrt(forward) < threshold),
        np.mean(np.sqrt(backward) < threshold),
    )
    return float(2 * recall * precision / (recall + precision))


@pytest.mark.parametrize("name", CLOSED)
def test_at_256(name: str) -> None:
    assert there_and_back(name, 256, 20_000) > 0.93


@pytest.mark.long
@pytest.mark.parametrize("name", CLOSED)
def test_at_512(name: str) -> None:
    score = there_and_back(name, 512, 200_000)
    assert score > (0.99 if name == "fandisk.obj" else 0.97)


@pytest.mark.parametrize("name", CLOSED)
def test_values_and_signs_against_libigl(name: str) -> None:
    """Float64 distance and winding number, also on triangles 10 000 times as long as wide."""
    import igl

    source = load_mesh(MESHES / name)
    sdf = build_sparse_sdf(source, 128)
    rng = np.random.default_rng(0)
    brick, voxel = np.nonzero(np.ones_like(sdf.band))
    picked = rng.choice(len(brick), 3000, replace=False)
    brick, voxel = brick[picked], voxel[picked]
    points = mesh_positions(sdf)[brick, voxel]
    squared, _, _ = igl.point_mesh_squared_distance(points, source.vertices, source.faces)
    distance = np.sqrt(squared) / sdf.scale
    outward = source.faces if signed_volume(source) > 0 else source.faces[:, ::-1]
    winding = igl.winding_number(source.vertices, np.ascontiguousarray(outward), points)
    expected = np.minimum(distance / sdf.tau, 1) * np.where(winding > 0.5, -1, 1)
    found = sdf.sdf[brick, voxel]
    assert np.abs(found - expected).max() * sdf.tau * 128 < 1e-4  # voxels


def test_flips_in_a_real_mesh_change_nothing() -> None:
    source = load_mesh(MESHES / "busted.STL")
    right, wrong = build_sparse_sdf(source, 64), build_sparse_sdf(flipped(source, 0.4), 64)
    np.testing.assert_array_equal(right.sdf, wrong.sdf)


@pytest.mark.parametrize("name", OPEN)
def test_open_meshes_are_refused(name: str) -> None:
    with pytest.raises(MeshError, match=f"{OPEN[name]} boundary edges") as caught:
        build_sparse_sdf(load_mesh(MESHES / name), 32)
    assert caught.value.reason == "not_closed"

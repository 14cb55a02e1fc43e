"""The distances between a mesh and its field: known shapes, moved by known amounts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.geometry.shapes import box, icosphere, inverted, join
from threed_gen.geometry.fidelity import fidelity
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.rays import RayMesh, sphere_directions
from threed_gen.geometry.sparse_sdf import SparseSDF

BALL = icosphere(1.0, 4)
SDF = build_sparse_sdf(BALL, 64)
COUNT = 4000


def moved(sdf: SparseSDF, voxels: float) -> SparseSDF:
    x, y, z = sdf.offset
    return replace(sdf, offset=(x + voxels * sdf.scale / sdf.resolution, y, z))


def test_a_field_is_close_to_its_own_mesh() -> None:
    found = fidelity(BALL, SDF, COUNT)
    assert 0 < found.mean_to_result < 0.02
    assert 0 < found.mean_to_source < 0.02
    assert found.share_beyond_2 == 0
    assert found.visible_share == 1


@pytest.mark.parametrize("voxels", [1.0, 3.0])
def test_distances_are_in_voxels(voxels: float) -> None:
    found = fidelity(BALL, moved(SDF, voxels), COUNT)
    # A sphere moved by m: the mean of m |cos| over the sphere is m / 2.
    assert found.mean_to_result == pytest.approx(voxels / 2, rel=0.05)
    assert found.mean_to_source == pytest.approx(voxels / 2, rel=0.05)
    beyond = max(0.0, 1 - 2 / voxels)  # where |cos| > 2 / m
    assert found.share_beyond_2 == pytest.approx(beyond, abs=0.03)


def test_against_libigl() -> None:
    import igl

    shape = box((0, 0, 0), (1, 2, 0.5))
    sdf = build_sparse_sdf(icosphere(0.7, 3, (0.5, 1, 0.25)), 32)
    result = extract_mesh(sdf)
    found = fidelity(shape, sdf, 20_000)
    rng = np.random.default_rng(7)
    for mesh, other, value in (
        (shape, result, "mean_to_result"),
        (result, shape, "mean_to_source"),
    ):
        a, b, c = np.moveaxis(mesh.triangles, 1, 0)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        face = rng.choice(len(area), 20_000, p=area / area.sum())
        on = np.einsum("nij,ni->nj", mesh.triangles[face], rng.dirichlet([1, 1, 1], len(face)))
        d = np.sqrt(igl.point_mesh_squared_distance(on, other.vertices, other.faces)[0])
        assert getattr(found, value) == pytest.approx(d.mean() / sdf.scale * 32, rel=0.03)


def test_only_what_can_be_seen_counts() -> None:
    hidden = join(BALL, inverted(icosphere(0.5, 3)))
    found = fidelity(hidden, SDF, COUNT)
    assert found.visible_share == pytest.approx(0.8, abs=0.02)  # the inner ball has a fifth
    assert found.share_beyond_2 == 0
    assert found.mean_to_result < 0.02
    open_ball = Mesh(hidden.vertices, np.delete(hidden.faces, np.arange(40), axis=0))
    assert fidelity(open_ball, SDF, COUNT).share_beyond_2 > 0.01  # now one can look in


def test_a_lost_part_is_noticed() -> None:
    two = join(BALL, icosphere(0.2, 3, (1.5, 0, 0)))
    found = fidelity(two, SDF, COUNT)
    assert found.share_beyond_2 == pytest.approx(0.04 / 1.04, abs=0.01)


def test_nothing_left_of_the_surface() -> None:
    empty = replace(SDF, sdf=np.abs(SDF.sdf))
    found = fidelity(BALL, empty, 100)
    assert found.mean_to_result == found.mean_to_source == pytest.approx(64 * np.sqrt(3))
    assert found.share_beyond_2 == 1


def test_same_numbers_on_every_run() -> None:
    assert fidelity(BALL, SDF, 500) == fidelity(BALL, SDF, 500)
    assert fidelity(BALL, SDF, 500) != fidelity(BALL, SDF, 500, seed=1)


def test_rays_see_a_triangle_only_in_between() -> None:
    wall = RayMesh(np.array([[[0.0, 0, 0.5], [1, 0, 0.5], [0, 1, 0.5]]]))
    start = np.array([[0.2, 0.2, 0.1], [0.2, 0.2, 0.1], [0.9, 0.9, 0.1], [0.2, 0.2, 0.6]])
    end = start + np.array([0, 0, 1]) * np.array([[0.5], [0.3], [0.5], [0.3]])
    assert wall.between(start, end).tolist() == [True, False, False, False]
    assert not wall.between(start[:1], start[:1]).any()


def test_directions_are_spread_evenly() -> None:
    directions = sphere_directions(64)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.01)
    nearest = np.sort(directions @ directions.T, axis=1)[:, -2]
    assert np.degrees(np.arccos(nearest)).min() > 15

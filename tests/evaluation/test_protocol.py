"""The whole comparison of two surfaces, against numbers that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from threed_gen.evaluation.metrics import THRESHOLDS, WORST_DISTANCE
from threed_gen.evaluation.protocol import Sampling, compare
from threed_gen.evaluation.sharp import NearEdges, NearMarked
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf

FEW = Sampling(samples=4000, paper_points=0)


def mesh(shape: trimesh.Trimesh, scale: float = 1.0) -> Mesh:
    return Mesh(np.asarray(shape.vertices) * scale, np.asarray(shape.faces))


def both(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    faces = [m.faces + start for m, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces))


def flipped(one: Mesh) -> Mesh:
    return Mesh(one.vertices, one.faces[:, ::-1])


BALL = mesh(trimesh.creation.icosphere(subdivisions=3))
BOX = mesh(trimesh.creation.box((2.0, 2.0, 2.0)))


def judged(pred: Mesh, truth: Mesh, sampling: Sampling = FEW) -> dict:
    return compare(pred, truth, NearEdges(truth, 64), sampling)


def test_a_copy_is_perfect_in_every_scope() -> None:
    result = judged(BOX, BOX)
    for scope in ("all", "visible"):
        assert result[scope]["cd_l1"] < 1e-12
        assert result[scope]["hd95"] < 1e-12
        assert all(
            result[scope][f"{kind}f@{t:g}"] == 1 for t in THRESHOLDS for kind in ("", "sharp_")
        )
        assert result[scope]["sharp_nc"] == pytest.approx(1.0, abs=1e-3)
    assert result["viou"] == 1.0


@pytest.mark.parametrize(
    ("by", "passed"), [(0.0009, 4), (0.0049, 3), (0.0099, 2), (0.0199, 1), (0.021, 0)]
)
def test_spheres_of_two_radii_and_where_each_threshold_flips(by: float, passed: int) -> None:
    result = judged(mesh(trimesh.creation.icosphere(subdivisions=3), 1 + by), BALL)
    for scope in ("all", "visible"):
        assert result[scope]["cd_l1"] == pytest.approx(by, rel=1e-2)
        assert result[scope]["cd_l2"] == pytest.approx(2 * by**2, rel=2e-2)
        ok = [result[scope][f"f@{t:g}"] for t in sorted(THRESHOLDS, reverse=True)]
        assert ok == [1.0] * passed + [0.0] * (4 - passed)
    # Of a ball within a ball, the smaller over the larger.
    assert result["viou"] == pytest.approx((1 + by) ** -3, abs=0.02)


def test_a_ball_inside_counts_in_all_and_not_in_visible() -> None:
    """Areas 4π and π: a fifth of the truth's samples lie 1/2 away, so P = 1 and R = 4/5."""
    truth = both(BALL, mesh(trimesh.creation.icosphere(subdivisions=3), 0.5))
    result = judged(BALL, truth)
    assert result["all"]["cd_l1"] == pytest.approx(0.5 / 5 / 2, rel=1e-2)
    assert result["all"]["f@0.02"] == pytest.approx(2 * 0.8 / 1.8, abs=2e-3)
    assert result["visible"]["cd_l1"] < 1e-9
    assert result["visible"]["f@0.001"] == 1.0
    # The other way round it is the prediction's waste, and precision suffers.
    waste = judged(truth, BALL)
    assert waste["all"]["f@0.02"] == pytest.approx(2 * 0.8 / 1.8, abs=2e-3)
    assert waste["visible"]["f@0.001"] == 1.0


def test_the_wall_of_a_cavity_takes_away_its_volume() -> None:
    hollow = both(BALL, flipped(mesh(trimesh.creation.icosphere(subdivisions=3), 0.5)))
    assert judged(hollow, BALL)["viou"] == pytest.approx(7 / 8, abs=0.02)


def test_inside_out_has_opposite_normals_and_the_same_volume() -> None:
    result = judged(flipped(BALL), BALL)
    assert result["all"]["nc"] == pytest.approx(-1, abs=1e-3)
    assert result["all"]["nc_abs"] == pytest.approx(1, abs=1e-3)
    assert result["viou"] == 1.0


def test_an_open_surface_has_no_volume() -> None:
    assert judged(Mesh(BALL.vertices, BALL.faces[1:]), BALL)["viou"] is None
    assert judged(BALL, Mesh(BALL.vertices, BALL.faces[1:]))["viou"] is None


def test_sharp_numbers_see_a_ball_in_place_of_a_cube() -> None:
    """Near the cube's edges the inscribed ball is far away; in the middles it touches."""
    result = judged(BALL, BOX)["all"]
    assert result["f@0.02"] > 0.01
    assert all(result[f"sharp_f@{t:g}"] == 0 for t in THRESHOLDS)
    assert judged(BOX, BALL)["all"]["sharp_nc"] is None  # a ball has no sharp edge


def test_samples_near_edges_are_as_many_as_their_area() -> None:
    """At R = 64 two voxels of a cube of side 2 are 4 / 0.95 / 64: a strip along each edge."""
    width = 4 / 0.95 / 64
    points = np.stack([*np.random.default_rng(0).uniform(-1, 1, (2, 40_000)), np.ones(40_000)], 1)
    share = NearEdges(BOX, 64).near(points).mean()
    assert share == pytest.approx(1 - (1 - width) ** 2, abs=5e-3)


def test_a_stored_grid_remembers_its_sharp_voxels() -> None:
    """The marked voxels and the edges themselves agree, up to half a voxel's diagonal."""
    field = build_sparse_sdf(BOX, 32)
    near, far = NearMarked(field), np.array([[0.0, 0, 1], [1, 0.3, 0], [0, 0, 0], [50, 50, 50]])
    edge = np.stack([np.ones(50), np.ones(50), np.linspace(-1, 1, 50)], axis=1)
    assert near.near(edge).all()
    assert not near.near(far).any()
    moved = replace(field, scale=field.scale * 3, offset=tuple(3 * x + 1 for x in field.offset))
    assert NearMarked(moved).near(edge * 3 + 1).all()


def test_an_empty_prediction_gets_the_worst() -> None:
    result = judged(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), BOX, Sampling(500, 500))
    for numbers in (result["all"], result["visible"], result["point_to_point"]):
        assert numbers["cd_l1"] == WORST_DISTANCE
        assert numbers["f@0.02"] == 0.0
    assert result["all"]["sharp_f@0.02"] == 0.0
    assert result["viou"] is None


def test_point_to_point_has_the_floor_of_its_points() -> None:
    """On a plane of area A the nearest of N random points is √(A/N) / 2 away on average."""
    h = 1.0
    sheet = Mesh(
        np.array([[-h, -h, 0], [h, -h, 0], [h, h, 0], [-h, h, 0]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    result = judged(sheet, sheet, Sampling(100, 20_000))
    assert result["all"]["cd_l1"] < 1e-12
    floor = math.sqrt(4 / 20_000) / 2
    # Each side's own points are one draw in each of N equal shares: a little more even than random.
    assert result["point_to_point"]["cd_l1"] == pytest.approx(floor, rel=0.05)


def test_points_far_from_all_samples_count_with_their_distance_to_the_surface() -> None:
    truth = both(BALL, mesh(trimesh.creation.icosphere(subdivisions=3), 0.5))
    found = judged(BALL, truth, Sampling(500, 4000))["point_to_point"]
    alone = judged(BALL, BALL, Sampling(500, 4000))["point_to_point"]["cd_l1"]
    # Of the truth's points a fifth lie 1/2 away, and the others are longer apart by √(5/4).
    floor = alone * (0.8 + math.sqrt(5 / 4)) / 2
    assert found["cd_l1"] == pytest.approx(0.5 / 5 / 2 + floor, rel=1e-2)
    assert found["nc"] > 0.99


def test_volumes_of_thin_walls_along_the_axes() -> None:
    """Half of each wall is shared with one moved by half of it: 1/3, wherever a grid may lie."""
    wall = mesh(trimesh.creation.box((2.0, 2.0, 0.0055)))
    up, half = np.array([0, 0, 1.0]), np.array([0, 0, 0.00275])
    walls = both(Mesh(wall.vertices - up, wall.faces), Mesh(wall.vertices + up, wall.faces))
    moved = Mesh(walls.vertices + half, walls.faces)
    one = judged(Mesh(wall.vertices + half, wall.faces), wall, Sampling(5000, 0))["viou"]
    assert one == pytest.approx(1 / 3, abs=0.03)  # alone it fills its box
    assert judged(moved, walls, Sampling(100_000, 0))["viou"] == pytest.approx(1 / 3, abs=0.06)


def test_faces_wound_in_different_ways_still_enclose_their_volume() -> None:
    mixed = Mesh(BOX.vertices, np.where(np.arange(12)[:, None] % 2, BOX.faces, BOX.faces[:, ::-1]))
    assert judged(mixed, BOX)["viou"] == 1.0

"""Buried faces and hollows leave no trace in the field, and nothing visible goes with them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import (
    box,
    box_distance,
    icosphere,
    inverted,
    join,
    mesh_positions,
    torus,
)
from threed_gen.geometry.interior import INTERIOR, MIXED, WALL, Rule, sort_faces
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, is_watertight
from threed_gen.geometry.narrow_band import build_sparse_sdf, measure
from threed_gen.geometry.repair import repair
from threed_gen.geometry.sparse_sdf import SparseSDF

BALL, SMALL, TINY = icosphere(0.6, 3), icosphere(0.3, 2), icosphere(0.12, 2)
ARRAYS = ("bricks", "sdf", "band", "sharp")


def area(corners: np.ndarray) -> float:
    a, b, c = np.moveaxis(corners, 1, 0)
    return float(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())


CUT = 0.47


def left_of_cut(corners: np.ndarray) -> np.ndarray:
    return (corners.mean(axis=1)[:, 0] < CUT).astype(np.int8)


def test_pieces_cover_the_faces_and_nothing_else() -> None:
    corners = torus(0.3, 0.1, 12, 8).triangles + 0.5
    size = 0.01
    found = sort_faces(corners, size, Rule(left_of_cut))
    mixed = found.kind == MIXED
    assert 0 < np.count_nonzero(mixed) < len(corners)
    assert area(found.pieces) == pytest.approx(area(corners[mixed]), rel=1e-9)
    crossing = (corners[..., 0].min(axis=1) < CUT - size) & (
        corners[..., 0].max(axis=1) > CUT + size
    )
    assert mixed[crossing].all()
    left = found.pieces[found.piece_kind == INTERIOR]
    assert left[..., 0].max() < CUT + size
    assert found.pieces[found.piece_kind == WALL][..., 0].min() > CUT - size
    # Much fewer than the smallest pieces: those of one kind are put together again.
    assert len(found.pieces) < 0.2 * area(corners[mixed]) / size**2 * 4


def test_judging_larger_pieces_early_changes_nothing() -> None:
    corners = torus(0.3, 0.1, 12, 8).triangles + 0.5

    def early(pieces: np.ndarray) -> np.ndarray:
        x = pieces[..., 0]
        return np.where(
            x.max(axis=1) < CUT - 0.05, 1, np.where(x.min(axis=1) > CUT + 0.05, 0, MIXED)
        ).astype(np.int8)

    plain = sort_faces(corners, 0.01, Rule(left_of_cut))
    quick = sort_faces(corners, 0.01, Rule(left_of_cut, early, 0.05))
    for name in ("kind", "pieces", "piece_kind"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(quick, name))


@pytest.mark.parametrize("limit", [100, 7])
def test_large_faces_are_sorted_in_portions(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torus(0.3, 0.1, 6, 4).triangles + 0.5
    whole = sort_faces(corners, 0.05, Rule(left_of_cut))
    monkeypatch.setattr("threed_gen.geometry.interior._MOST_PIECES", limit)
    portions = sort_faces(corners, 0.05, Rule(left_of_cut))
    np.testing.assert_array_equal(portions.kind, whole.kind)

    def rows(pieces: np.ndarray) -> np.ndarray:
        return np.unique(pieces.reshape(-1, 9), axis=0)

    np.testing.assert_allclose(rows(portions.pieces), rows(whole.pieces), atol=1e-15)


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param([SMALL], id="buried ball"),
        pytest.param([inverted(SMALL)], id="hollow"),
        pytest.param([inverted(SMALL), TINY], id="ball in a hollow"),
        pytest.param([SMALL, Mesh(SMALL.vertices + 0.1, SMALL.faces)], id="overlap inside"),
    ],
)
def test_what_is_inside_leaves_no_trace(inner: list[Mesh]) -> None:
    alone = build_sparse_sdf(BALL, 64)
    sdf, report = measure(repair(join(BALL, *inner)), 64)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(sdf, name), getattr(alone, name))
    total = area(BALL.triangles) + sum(area(m.triangles) for m in inner)
    assert report.interior_share == pytest.approx(1 - area(BALL.triangles) / total, rel=1e-6)


def assert_nearly_union(sdf: SparseSDF, exact: np.ndarray, seam: np.ndarray) -> None:
    """Equal to the distance of the union, apart from voxels inside that are close to a seam."""
    voxel = sdf.scale / sdf.resolution
    expected = np.clip(exact / sdf.scale / sdf.tau, -1, 1)
    sure = (np.abs(exact) > 1e-9) & ((exact > 0) | (seam > 6.5 * voxel))
    assert np.mean(sure) > 0.7
    np.testing.assert_allclose(sdf.sdf[sure], expected[sure], atol=1e-5)
    np.testing.assert_array_equal(sdf.inside[sure], (exact < 0)[sure])


@pytest.mark.parametrize("second", [1, -1])
def test_overlapping_boxes_are_one_box(second: int) -> None:
    low, high = (0.0, 0.0, 0.0), (1.6, 1.0, 1.0)
    a, b = box(low, (1.0, 1.0, 1.0)), box((0.6, 0.0, 0.0), high)
    sdf, report = measure(repair(join(a, Mesh(b.vertices, b.faces[:, ::second]))), 64)
    p = mesh_positions(sdf)
    seam = np.minimum(np.abs(p[..., 0] - 0.6), np.abs(p[..., 0] - 1.0))
    assert_nearly_union(sdf, box_distance(p, low, high), seam)
    alone = build_sparse_sdf(box(low, high), 64)
    np.testing.assert_array_equal(sdf.bricks, alone.bricks)
    assert report.interior_share == pytest.approx(2 / 12.0, abs=0.05)
    assert is_watertight(extract_mesh(sdf))


def test_crossing_beams_lose_only_what_is_buried() -> None:
    beams = [((-1.0, -0.2, -0.2), (1.0, 0.2, 0.2)), ((-0.2, -1.0, -0.2), (0.2, 1.0, 0.2))]
    sdf, report = measure(repair(join(*[box(*b) for b in beams])), 96)
    p = mesh_positions(sdf)
    outside = np.minimum(*[box_distance(p, *b) for b in beams])
    outer = outside > 0  # the distance of a union is exact outside, and inside far from the seam
    expected = np.clip(outside / sdf.scale / sdf.tau, -1, 1)
    np.testing.assert_allclose(sdf.sdf[outer], expected[outer], atol=1e-5)
    assert not (sdf.inside & (outside > 1e-9)).any()
    assert sdf.inside[outside < -1e-9].all()
    # Coplanar tops stay: only the four ends of the openings inside go, 4 x 0.16 of 7.04.
    assert report.interior_share == pytest.approx(4 * 0.16 / 7.04, rel=0.25)


def test_buried_edges_are_not_sharp() -> None:
    """A beam through a ball: its edges count outside the ball only."""
    ball, beam = icosphere(0.5, 4), box((-0.1, -0.1, -1.0), (0.1, 0.1, 1.0))
    sdf = build_sparse_sdf(join(ball, beam), 96)
    p = mesh_positions(sdf)
    voxel = sdf.scale / 96
    deep = np.linalg.norm(p, axis=-1) < 0.5 - 4 * voxel
    assert not (sdf.sharp & deep).any()
    edge = np.linalg.norm(np.abs(p[..., :2]) - 0.1, axis=-1)
    free = (np.abs(p[..., 2]) > 0.5 + 3 * voxel) & (np.abs(p[..., 2]) < 0.9)
    near = free & (edge < 1.9 * voxel) & sdf.band
    assert near.any()
    assert sdf.sharp[near].all()


def test_an_edge_just_below_the_surface_is_not_sharp() -> None:
    """A beam that runs into a box three voxels below its top."""
    r = 64
    voxel = 1.5 / 0.95 / r
    beam = box((0.5, 0.4, 0.5), (1.5, 0.6, 1 - 3 * voxel))
    sdf = build_sparse_sdf(join(box(), beam), r)
    p = mesh_positions(sdf)
    top = (p[..., 2] > 1 - 2.2 * voxel) & (np.abs(p[..., :2] - [0.7, 0.5]) < [0.1, 0.3]).all(
        axis=-1
    )
    assert (top & sdf.band).any()
    assert not (sdf.sharp & top).any()
    assert sdf.sharp[(np.abs(p - [1.3, 0.4, 0.5]) < [0.05, voxel, voxel]).all(axis=-1)].all()


def test_parts_that_do_not_touch_are_left_alone() -> None:
    apart = join(box(), box((1.02, 0, 0), (2, 1, 1)))
    report = measure(repair(apart), 64)[1]
    assert report.interior_share == report.enclosed_share == report.enclosed_pieces == 0


def test_a_bottle_with_a_neck_of_two_voxels_stays_hollow() -> None:
    r = 64
    profile = np.array([[0, -1], [0.6, -1], [0.6, 0.6], [0.06, 0.7], [0.06, 1.0]])
    inner = np.array([[0.04, 1.0], [0.04, 0.65], [0.5, 0.5], [0.5, -0.9], [0, -0.9]])
    from threed_gen.data.procedural.solids import revolve

    bottle = revolve(np.concatenate([profile, inner]), segments=48)
    sdf, report = measure(repair(bottle), r)
    assert report.enclosed_pieces == 0
    p = mesh_positions(sdf)
    hollow = (np.hypot(p[..., 0], p[..., 1]) < 0.45) & (np.abs(p[..., 2]) < 0.4)
    assert hollow.any()
    assert not sdf.inside[hollow].any()

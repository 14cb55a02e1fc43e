"""Surface and field metrics against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from threed_gen.evaluation.metrics import (
    THRESHOLDS,
    WORST_DISTANCE,
    field_metrics,
    mesh_metrics,
    worst_metrics,
)
from threed_gen.evaluation.surface import closest, sample_surface, surface_of
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import SparseSDF

SAMPLES = 20_000


def mesh(shape: trimesh.Trimesh, scale: float = 1.0, shift: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    return Mesh(np.asarray(shape.vertices) * scale + np.asarray(shift), np.asarray(shape.faces))


def square(height: float, side: float = 2.0) -> Mesh:
    """An open sheet [-side/2, side/2]² at z = height, cut into two triangles."""
    h = side / 2
    corners = np.array([[-h, -h, height], [h, -h, height], [h, h, height], [-h, h, height]])
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


BOX = trimesh.creation.box((2.0, 1.2, 0.7))
SPHERE = trimesh.creation.icosphere(subdivisions=5)


def test_a_mesh_against_itself_is_perfect_without_a_sampling_floor() -> None:
    result = mesh_metrics(mesh(BOX), mesh(BOX), SAMPLES)
    assert result["cd_l1"] < 1e-12
    assert result["cd_l2"] < 1e-12
    assert result["hd95"] < 1e-12
    assert all(result[f"f@{t:g}"] == 1.0 for t in THRESHOLDS)
    assert result["nc"] == pytest.approx(
        1.0, abs=1e-4
    )  # a sample on an edge may pick its neighbour


def test_sheet_moved_along_its_normal() -> None:
    # The box of the sheet is [-1, 1]², so lengths stay; every distance is the offset.
    result = mesh_metrics(square(0.007), square(0.0), SAMPLES)
    assert result["cd_l1"] == pytest.approx(0.007, rel=1e-9)
    assert result["cd_l2"] == pytest.approx(2 * 0.007**2, rel=1e-9)
    assert result["hd95"] == pytest.approx(0.007, rel=1e-9)
    assert [result[f"f@{t:g}"] for t in THRESHOLDS] == [1.0, 1.0, 0.0, 0.0]
    assert result["nc"] == pytest.approx(1.0)


def test_flipped_sheet_has_opposite_normals() -> None:
    flipped = Mesh(square(0.0).vertices, square(0.0).faces[:, ::-1])
    result = mesh_metrics(flipped, square(0.0), SAMPLES)
    assert result["nc"] == pytest.approx(-1.0)
    assert result["nc_abs"] == pytest.approx(1.0)


def test_larger_sheet_has_perfect_recall_and_known_precision() -> None:
    # Side 2.4 over side 2: inside lies (2/2.4)² of the larger, t = 0.02 reaches a little further.
    result = mesh_metrics(square(0.0, side=2.4), square(0.0), 100_000)
    t = 0.02
    near = (4 + 4 * 2 * t + math.pi * t**2) / 2.4**2
    assert result["f@0.02"] == pytest.approx(2 * near / (1 + near), abs=2e-3)
    # Distance of the rim: mean over the larger square of the distance to the smaller one.
    side, corner = 4 * 2 * 0.2**2 / 2, 4 * _corner_mean(0.2)
    assert result["cd_l1"] == pytest.approx((side + corner) / 2.4**2 / 2, rel=1e-2)


def _corner_mean(a: float) -> float:
    """Integral of sqrt(x² + y²) over [0, a]²."""
    return a**3 * (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 3


def test_sphere_of_radius_r_against_r_plus_e() -> None:
    result = mesh_metrics(mesh(SPHERE, 1.01), mesh(SPHERE), SAMPLES)
    assert result["cd_l1"] == pytest.approx(0.01, rel=2e-3)
    assert result["cd_l2"] == pytest.approx(2e-4, rel=4e-3)
    assert result["f@0.02"] == 1.0
    assert result["f@0.005"] == 0.0


def test_translated_box_in_closed_form() -> None:
    # A cube moved by e along x: of either side's area, the two faces across x are e away; on the
    # four faces along x only a strip of width e sticks out, at distances 0 … e.
    e = 0.05
    cube = trimesh.creation.box((2.0, 2.0, 2.0))
    result = mesh_metrics(mesh(cube, shift=(e, 0, 0)), mesh(cube), 100_000)
    # One of the two x faces lies outside (distance e), the other inside the moved cube, where
    # the sides y, z can be nearer than e: within e of the rim the distance is that to the rim.
    outside = 4 * e
    inside = _square_integral(e)
    strips = 4 * 2 * e**2 / 2
    assert result["cd_l1"] == pytest.approx((outside + inside + strips) / 24, rel=1e-2)
    assert result["f@0.02"] < 1.0


def _square_integral(e: float) -> float:
    """Integral of min(e, distance to the rim) over a square of side 2."""
    n = 4000
    x = (np.arange(n) + 0.5) / n * 2 - 1
    rim = 1 - np.abs(x)
    return float(np.minimum(e, np.minimum(rim[:, None], rim[None])).mean()) * 4


def test_the_unit_of_length_is_the_true_box() -> None:
    """Scaling and moving both meshes changes nothing; the prediction gets the truth's transform."""
    near = mesh_metrics(mesh(SPHERE, 1.01), mesh(SPHERE), SAMPLES)
    far = mesh_metrics(mesh(SPHERE, 101, (500, -70, 3)), mesh(SPHERE, 100, (500, -70, 3)), SAMPLES)
    for key, value in near.items():
        assert far[key] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_seed_decides_the_samples() -> None:
    a, b, c = (mesh_metrics(mesh(SPHERE, 1.01), mesh(SPHERE), 2000, seed) for seed in (0, 0, 1))
    assert a == b
    assert a != c


def test_empty_prediction_gets_the_worst_values() -> None:
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    result = mesh_metrics(empty, mesh(BOX), SAMPLES)
    assert result == worst_metrics()
    assert result["cd_l1"] == WORST_DISTANCE == pytest.approx(2 * math.sqrt(3))
    assert result["f@0.02"] == 0.0
    assert set(result) == set(mesh_metrics(mesh(BOX), mesh(BOX), 100))


def test_zero_area_and_non_finite_faces_of_a_prediction_do_no_harm() -> None:
    good = mesh(BOX)
    spoilt = Mesh(
        np.concatenate([good.vertices, [[np.nan, 0, 0], [9, 9, 9]]]),
        np.concatenate([good.faces, [[0, 1, 8], [9, 9, 9], [0, 1, 1]]]),
    )
    result = mesh_metrics(spoilt, good, SAMPLES)
    assert result["cd_l1"] < 1e-12
    assert result["nc"] == pytest.approx(1.0, abs=1e-4)
    assert len(surface_of(spoilt).faces) == len(good.faces)


def test_truth_without_surface_is_refused() -> None:
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match="no surface"):
        mesh_metrics(mesh(BOX), empty)


def test_samples_lie_on_the_surface_and_are_uniform_over_the_area() -> None:
    surface = surface_of(mesh(BOX))
    points, face = sample_surface(surface, 60_000, seed=3)
    assert closest(points, surface)[0].max() < 1e-12
    share = np.bincount(face, minlength=len(surface.areas)) / 60_000
    assert np.allclose(share, surface.areas / surface.areas.sum(), atol=1e-3)
    # Within one triangle, too: the mean of barycentric samples is the centroid.
    first = points[face == 0]
    centroid = surface.vertices[surface.faces[0]].mean(axis=0)
    assert np.abs(first.mean(axis=0) - centroid).max() < 0.02


def field(values: np.ndarray, band: np.ndarray) -> SparseSDF:
    bricks = np.array([[0, 0, 0], [0, 0, 1]], np.int32)
    return SparseSDF(
        bricks, values.astype(np.float32), band, np.zeros_like(band), 16, 0.25, 1.0, (0.0, 0.0, 0.0)
    )


def test_field_metrics_by_hand() -> None:
    """1,024 voxels: 100 truly inside, 90 of them found, 30 others wrongly so."""
    truth = np.ones((2, 512))
    truth.ravel()[:100] = -0.5
    predicted = truth.copy()
    predicted.ravel()[90:100] = 0.5
    predicted.ravel()[200:230] = -1.0
    band = np.zeros((2, 512), bool)
    band.ravel()[:100] = True
    result = field_metrics(field(predicted, band), field(truth, band))
    assert result["iou"] == pytest.approx(90 / 130)
    assert result["sign_accuracy"] == pytest.approx(1 - 40 / 1024)
    # One unit of s is tau * R = 4 voxels.
    assert result["error_voxels"] == pytest.approx(10 * 1.0 * 4 / 100)
    assert result["error_voxels_all"] == pytest.approx((10 * 1.0 + 30 * 2.0) * 4 / 1024)


def test_field_without_inside_counts_as_equal() -> None:
    band = np.zeros((2, 512), bool)
    band[:, 0] = True
    empty = np.ones((2, 512))
    empty[:, 0] = 0.5
    assert field_metrics(field(empty, band), field(empty, band)) == {
        "iou": 1.0, "sign_accuracy": 1.0, "error_voxels": 0.0, "error_voxels_all": 0.0,
    }  # fmt: skip


def test_fields_on_different_grids_are_refused() -> None:
    band = np.zeros((2, 512), bool)
    band[:, 0] = True
    values = np.where(band, 0.5, 1.0)
    one = field(values, band)
    with pytest.raises(ValueError, match="same grid"):
        field_metrics(replace(one, tau=0.2), one)

"""Open sheets and walls thinner than a voxel: shells of known thickness, without a tear."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import (
    box,
    box_distance,
    icosphere,
    join,
    mesh_positions,
    sphere_distance,
)
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, is_watertight, signed_volume
from threed_gen.geometry.narrow_band import build_sparse_sdf, measure
from threed_gen.geometry.repair import repair
from threed_gen.geometry.sheets import SHEET_VOXELS
from threed_gen.geometry.sparse_sdf import SparseSDF, voxel_centres

SMALLEST_TAU = 1.75


def bent_sheet() -> Mesh:
    """Two rectangles that share an edge, tilted so that no voxel row is parallel to them."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0.7], [1, 0, 0.7]])
    return Mesh(corners @ turn.T, np.array([[0, 1, 2], [0, 2, 3], [0, 4, 5], [0, 5, 1]]))


def distance_to(mesh: Mesh, sdf: SparseSDF) -> np.ndarray:
    """Distance of every stored voxel in unit-cube units, from libigl."""
    import igl

    points = mesh_positions(sdf).reshape(-1, 3)
    squared = igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)[0]
    return np.sqrt(squared).reshape(sdf.sdf.shape) / sdf.scale


@pytest.mark.parametrize("tau", [SMALLEST_TAU, 4.0])
def test_sheet_is_the_thinnest_shell(tau: float) -> None:
    mesh, r = bent_sheet(), 96
    sdf = build_sparse_sdf(mesh, r, tau=tau / r)
    sdf.validate()
    expected = np.clip((distance_to(mesh, sdf) * r - SHEET_VOXELS) / tau, -1, 1)
    np.testing.assert_allclose(sdf.sdf, expected, atol=1e-5)
    assert pytest.approx(np.sqrt(3) / 2, abs=2e-4) == SHEET_VOXELS


@pytest.mark.parametrize("resolution", [64, 96, 128])
def test_shell_is_closed_and_in_one_piece(resolution: int) -> None:
    sdf = build_sparse_sdf(bent_sheet(), resolution, tau=SMALLEST_TAU / resolution)
    mesh = extract_mesh(sdf)
    assert is_watertight(mesh)
    volume = signed_volume(mesh) / sdf.scale**3 * resolution**3
    area = 1.7 / sdf.scale**2 * resolution**2
    assert volume == pytest.approx(2 * SHEET_VOXELS * area, rel=0.06)
    assert number_of_parts(mesh) == 1


def number_of_parts(mesh: Mesh) -> int:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]]).T
    size = len(mesh.vertices)
    return connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(size, size)))[0]


def test_every_candidate_brick_is_there() -> None:
    """No voxel of the whole grid that the shell's band holds is missing."""
    import igl

    mesh, r = bent_sheet(), 64
    tau = SMALLEST_TAU / r
    sdf = build_sparse_sdf(mesh, r, tau=tau)
    axis = np.arange(r)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = voxel_centres(grid, r) * sdf.scale + np.array(sdf.offset)
    d = np.sqrt(igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)[0]) / sdf.scale
    s = ((d - SHEET_VOXELS / r) / tau).astype(np.float32)
    assert sdf.num_voxels == np.count_nonzero(np.abs(s) < 1)


@pytest.mark.parametrize("winding", [1, -1])
def test_fin_on_a_box_grows_out_of_it_without_a_gap(winding: int) -> None:
    fin = Mesh(
        np.array([[0.5, 0.1, 1.0], [0.5, 0.9, 1.0], [0.5, 0.9, 1.6], [0.5, 0.1, 1.6]]),
        np.array([[0, 1, 2], [0, 2, 3]])[:, ::winding],
    )
    mesh = join(box(), fin)
    r = 64
    sdf, report = measure(repair(mesh), r, tau=SMALLEST_TAU / r)
    assert report.sheet_share == pytest.approx(0.48 / (6 + 0.48), rel=0.06)
    voxel = sdf.scale / r
    p = mesh_positions(sdf)
    solid = box_distance(p, (0, 0, 0), (1, 1, 1))
    off = np.maximum(np.abs(p - [0.5, 0.5, 1.3]) - [0, 0.4, 0.3], 0)
    shell = np.linalg.norm(off, axis=-1) - SHEET_VOXELS * voxel
    expected = np.clip(np.minimum(solid, shell) / voxel / SMALLEST_TAU, -1, 1)
    np.testing.assert_allclose(sdf.sdf[solid > 0], expected[solid > 0], atol=1e-4)
    out = extract_mesh(sdf)
    assert is_watertight(out)
    assert number_of_parts(out) == 1


def test_fin_inside_a_box_leaves_no_trace() -> None:
    inner = Mesh(np.array([[0.2, 0.2, 0.3], [0.8, 0.3, 0.7], [0.5, 0.8, 0.5]]), [[0, 1, 2]])
    alone = build_sparse_sdf(box(), 64)
    with_fin, report = measure(repair(join(box(), inner)), 64)
    for name in ("bricks", "sdf", "band", "sharp"):
        np.testing.assert_array_equal(getattr(with_fin, name), getattr(alone, name))
    assert report.sheet_share == 0
    assert report.interior_share > 0.01


def soup(mesh: Mesh, shrink: float) -> Mesh:
    corners = mesh.triangles
    corners = corners + (corners.mean(axis=1, keepdims=True) - corners) * shrink
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


@pytest.mark.parametrize("tau", [SMALLEST_TAU, 4.0])
def test_soup_with_gaps_of_a_voxel_becomes_solid(tau: float) -> None:
    r = 64
    broken = soup(icosphere(1.0, 3), 0.12)  # sides of 4.5 voxels, gaps up to a voxel
    sdf, report = measure(repair(broken), r, tau=tau / r)
    sdf.validate()
    assert report.enclosed_pieces == 1
    d = sphere_distance(mesh_positions(sdf), 1.0) / sdf.scale * r
    clear = np.abs(d) > 0.6
    assert np.mean(sdf.inside[clear] != (d < 0)[clear]) < 0.002
    mesh = extract_mesh(sdf)
    assert is_watertight(mesh)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi, rel=0.02)


def slotted_block(width: float) -> Mesh:
    """Loose rectangles around a unit block with a slot from above, 0.4 deep."""
    low, high = 0.5 - width / 2, 0.5 + width / 2
    outline = [(0, 0), (1, 0), (1, 1), (high, 1), (high, 0.6), (low, 0.6), (low, 1), (0, 1)]
    quads = []
    for (x0, z0), (x1, z1) in zip(outline, outline[1:] + outline[:1], strict=True):
        quads.append([(x0, 0, z0), (x1, 0, z1), (x1, 1, z1), (x0, 1, z0)])
    for y in (0, 1):
        for x0, x1, z1 in ((0, low, 1), (low, high, 0.6), (high, 1, 1)):
            quads.append([(x0, y, 0), (x1, y, 0), (x1, y, z1), (x0, y, z1)])
    corners = np.array(quads, float)
    corners += (corners.mean(axis=1, keepdims=True) - corners) * 0.002
    faces = np.arange(len(quads))[:, None, None] * 4 + np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(corners.reshape(-1, 3), faces.reshape(-1, 3))


def test_a_slot_narrower_than_the_shells_stays_open() -> None:
    r = 64
    width = 1.1 / r / 0.95
    sdf, report = measure(repair(slotted_block(width)), r)
    assert report.enclosed_pieces == 1
    p = mesh_positions(sdf)
    y = np.abs(p[..., 1] - 0.5) < 0.4
    slot = y & (np.abs(p[..., 0] - 0.5) < width / 2) & (p[..., 2] > 0.65)
    block = y & (np.abs(np.abs(p[..., 0] - 0.5) - 0.1) < 0.05) & (np.abs(p[..., 2] - 0.8) < 0.1)
    assert np.count_nonzero(slot) > 300
    assert np.count_nonzero(block) > 300
    assert not sdf.inside[slot].any()
    assert sdf.inside[block].all()
    assert is_watertight(extract_mesh(sdf))


def test_thin_plate_does_not_vanish() -> None:
    # Its faces lie between two layers of voxel centres: no voxel is inside.
    r = 64
    plate = box((0, 0, 0), (1, 1, 0.005))
    sdf, report = measure(repair(plate), r, tau=SMALLEST_TAU / r)
    assert report.thin_share == report.sheet_share == 1.0
    expected = np.clip((distance_to(plate, sdf) * r - SHEET_VOXELS) / SMALLEST_TAU, -1, 1)
    np.testing.assert_allclose(sdf.sdf, expected, atol=1e-5)
    assert is_watertight(extract_mesh(sdf))


def test_walls_that_the_grid_sees_stay_as_they_are() -> None:
    sdf, report = measure(repair(box((0, 0, 0), (1, 1, 0.03))), 64)
    assert report.thin_share == report.sheet_share == 0
    d = box_distance(mesh_positions(sdf), (0, 0, 0), (1, 1, 0.03)) / sdf.scale / sdf.tau
    np.testing.assert_allclose(sdf.sdf, np.clip(d, -1, 1), atol=1e-5)


def test_thin_box_around_a_hollow_is_solid() -> None:
    """Two closed walls a third of a voxel apart: neither is seen, together they enclose."""
    outer, inner = box(), box((0.006,) * 3, (0.994,) * 3)
    mesh = join(outer, Mesh(inner.vertices, inner.faces[:, ::-1]))
    sdf = build_sparse_sdf(mesh, 48)
    d = box_distance(mesh_positions(sdf), (0, 0, 0), (1, 1, 1)) / sdf.scale * 48
    np.testing.assert_array_equal(sdf.inside[np.abs(d) > 1], (d < 0)[np.abs(d) > 1])


def test_shell_at_the_border_of_a_coarse_grid_is_closed() -> None:
    for resolution in (32, 40, 48):
        assert is_watertight(extract_mesh(build_sparse_sdf(bent_sheet(), resolution)))


def test_same_bits_on_every_run_and_for_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = join(soup(icosphere(0.5, 2), 0.05), bent_sheet())
    first, second = build_sparse_sdf(mesh, 64), build_sparse_sdf(mesh, 64)
    for module in ("candidates", "narrow_band", "layers", "signs"):
        monkeypatch.setattr(f"threed_gen.geometry.{module}.CHUNK_BRICKS", 7)
    monkeypatch.setattr("threed_gen.geometry.sheets._CHUNK", 1000)
    monkeypatch.setattr("threed_gen.geometry.interior._MOST_PIECES", 3000)
    third = build_sparse_sdf(mesh, 64)
    for name in ("bricks", "sdf", "band", "sharp"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
        np.testing.assert_array_equal(getattr(first, name), getattr(third, name))

"""The field of a mesh: exact against closed forms and brute force, complete, and reproducible."""

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
    torus,
    torus_distance,
)
from threed_gen.errors import UserError
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import Mesh, MeshError
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sheets import SHEET_VOXELS
from threed_gen.geometry.sparse_sdf import SparseSDF, default_tau, raster_offsets, voxel_centres


def check_against(sdf: SparseSDF, exact: np.ndarray, tolerance: float) -> None:
    """`exact`: distance of every stored voxel in mesh units. Tolerance in unit-cube units."""
    sdf.validate()
    exact = exact / sdf.scale
    expected = np.clip(exact / sdf.tau, -1, 1)
    assert np.abs(sdf.sdf - expected).max() * sdf.tau < tolerance
    clear = np.abs(exact) > tolerance
    np.testing.assert_array_equal(sdf.inside[clear], (exact < 0)[clear])
    sure = np.abs(np.abs(exact) - sdf.tau) > tolerance
    np.testing.assert_array_equal(sdf.band[sure], (np.abs(exact) < sdf.tau)[sure])


@pytest.mark.parametrize("resolution", [16, 40, 64])
def test_box_is_exact(resolution: int) -> None:
    low, high = (-1.0, 2.0, 0.5), (1.5, 3.0, 2.1)
    sdf = build_sparse_sdf(box(low, high), resolution)
    # float32 storage of s is all that is lost
    check_against(sdf, box_distance(mesh_positions(sdf), low, high), 1e-7)


def test_sphere_to_1e5() -> None:
    ball = icosphere(1.0, 7)  # facets are 5.4e-6 of the cube below the sphere at most
    sdf = build_sparse_sdf(ball, 64)
    check_against(sdf, sphere_distance(mesh_positions(sdf), 1.0), 1e-5)


def test_torus_to_1e5() -> None:
    sdf = build_sparse_sdf(torus(1.0, 0.35, around=512, tube=320), 64)
    check_against(sdf, torus_distance(mesh_positions(sdf), 1.0, 0.35), 1e-5)


def brute_force(mesh: Mesh, resolution: int, tau: float) -> dict[tuple[int, ...], float]:
    """All voxels of the grid from libigl in float64, as {voxel: s} where |s| < 1."""
    import igl

    unit, _, _ = unit_frame(mesh)
    axis = np.arange(resolution)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    centres = voxel_centres(grid, resolution)
    squared = igl.point_mesh_squared_distance(centres, unit.vertices, unit.faces)[0]
    winding = igl.winding_number(unit.vertices, unit.faces, centres)
    s = np.sqrt(squared) / tau * np.where(winding > 0.5, -1, 1)
    near = np.abs(s.astype(np.float32)) < 1
    return {tuple(v): d for v, d in zip(grid[near].tolist(), s[near], strict=True)}


@pytest.mark.parametrize(
    "mesh",
    [icosphere(0.8, 2), torus(1.0, 0.3, 24, 12), join(box(), icosphere(0.4, 2, (1.6, 0.5, 0.5)))],
    ids=["sphere", "torus", "box and sphere"],
)
def test_sparse_equals_dense(mesh: Mesh) -> None:
    resolution, tau = 32, default_tau(32)
    sdf = build_sparse_sdf(mesh, resolution)
    sdf.validate()
    dense = brute_force(mesh, resolution, tau)
    found = dict(zip(map(tuple, sdf.coords.tolist()), sdf.values.tolist(), strict=True))
    assert found.keys() == dense.keys()
    error = max(abs(found[v] - dense[v]) for v in dense)
    assert error < 1e-6
    bricks = {tuple(x // 8 for x in v) for v in dense}
    assert set(map(tuple, sdf.bricks.tolist())) == bricks


def test_every_voxel_of_a_brick_has_its_sign() -> None:
    import igl

    mesh = torus(1.0, 0.3, 40, 20)
    sdf = build_sparse_sdf(mesh, 64)
    winding = igl.winding_number(mesh.vertices, mesh.faces, mesh_positions(sdf).reshape(-1, 3))
    np.testing.assert_array_equal(sdf.inside.reshape(-1), winding > 0.5)
    assert (~sdf.band & sdf.inside).any()
    assert (~sdf.band & ~sdf.inside).any()


def test_same_bits_on_every_run() -> None:
    mesh = icosphere(0.7, 3)
    a, b = build_sparse_sdf(mesh, 64), build_sparse_sdf(mesh, 64)
    for name in ("bricks", "sdf", "band", "sharp"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = box()
    whole = build_sparse_sdf(mesh, 64)
    monkeypatch.setattr("threed_gen.geometry.narrow_band.CHUNK_BRICKS", 7)
    pieces = build_sparse_sdf(mesh, 64)
    for name in ("bricks", "sdf", "band", "sharp"):
        assert getattr(whole, name).tobytes() == getattr(pieces, name).tobytes()


def test_surface_through_voxel_centres_is_inside_strictly() -> None:
    # Longest side 19, so one unit is 1/20 of the cube and two voxels: y = 10.5 maps to 30.5 / 40.
    low, high = (0.0, 0.0, 0.0), (19.0, 10.5, 10.5)
    sdf = build_sparse_sdf(box(low, high), 40)
    on_face = np.abs(box_distance(mesh_positions(sdf), low, high)) < 1e-12
    assert np.count_nonzero(on_face) > 1000
    assert (np.abs(sdf.sdf[on_face]) < 1e-5).all()
    assert not (sdf.inside & (sdf.sdf > -1e-7)).any()
    check_against(sdf, box_distance(mesh_positions(sdf), low, high), 1e-6)


def test_frame_leads_back_to_the_mesh() -> None:
    mesh = Mesh(box().vertices * [30, 10, 20] + [1e4, -500, 3], box().faces)
    sdf = build_sparse_sdf(mesh, 32)
    on_surface = mesh_positions(sdf)[np.abs(sdf.sdf) * sdf.tau * 32 < 0.9]
    distance = box_distance(on_surface, mesh.vertices.min(0), mesh.vertices.max(0))
    assert np.abs(distance).max() < 0.91 * sdf.scale / 32
    assert sdf.scale == pytest.approx(30 / 0.95)


@pytest.mark.parametrize(
    ("resolution", "tau"), [(20, None), (8, None), (0, None), (-64, None), (64, 0.02), (64, 0.0)]
)
def test_impossible_grid(resolution: int, tau: float | None) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        build_sparse_sdf(box(), resolution, tau)


def test_smallest_tau_is_allowed() -> None:
    build_sparse_sdf(box(), 64, tau=1.75 / 64).validate()


def test_default_tau() -> None:
    assert default_tau(64) == 4 / 64
    assert default_tau(256) == default_tau(512) == 1 / 128
    assert default_tau(1024) == 4 / 1024


def test_policies_for_an_open_mesh() -> None:
    opened = Mesh(box().vertices, box().faces[:-2])  # a box without its lid
    shell, capped = (build_sparse_sdf(opened, 48, policy=p) for p in ("shell", "cap"))
    middle = np.abs(mesh_positions(shell) - 0.5).max(axis=-1) < 0.4
    assert not shell.inside[middle].any()
    exact = box_distance(mesh_positions(capped), (0, 0, 0), (1, 1, 1))
    check_against(capped, exact, 1e-6)
    small = build_sparse_sdf(opened, 48, cap_extent=1.0)
    np.testing.assert_array_equal(small.sdf, capped.sdf)


def test_no_faces_and_no_extent() -> None:
    with pytest.raises(MeshError) as caught:
        build_sparse_sdf(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), 32)
    assert caught.value.reason == "no_faces"
    with pytest.raises(MeshError) as caught:
        build_sparse_sdf(Mesh(np.ones((4, 3)), np.array([[0, 1, 2], [0, 2, 3]])), 32)
    assert caught.value.reason == "no_extent"
    with pytest.raises(MeshError) as caught:
        build_sparse_sdf(Mesh(np.full((4, 3), np.nan), np.array([[0, 1, 2]])), 32)
    assert caught.value.reason == "non_finite"


def test_coarse_to_fine_loses_no_thin_part() -> None:
    # A needle and a plate far thinner than any cell of the search: both become shells.
    needle = box((0, 0, 0), (1, 1e-3, 1e-3))
    plate = box((0, 0.5, 0.2), (1, 1.0, 0.2 + 1e-4))
    mesh = join(needle, plate)
    sdf = build_sparse_sdf(mesh, 128)
    # The border of the grid closes a shell, and does not count.
    border = ((sdf.coords == 0) | (sdf.coords == 127)).any(axis=1)
    assert len(brute_force_near(mesh, sdf)) == np.count_nonzero(~border)


def brute_force_near(mesh: Mesh, sdf: SparseSDF) -> np.ndarray:
    """Voxels of the whole grid nearer than tau to the shells, from libigl."""
    import igl

    unit, _, _ = unit_frame(mesh)
    axis = np.arange(sdf.resolution)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    centres = voxel_centres(grid, sdf.resolution)
    squared = igl.point_mesh_squared_distance(centres, unit.vertices, unit.faces)[0]
    s = ((np.sqrt(squared) - SHEET_VOXELS / sdf.resolution) / sdf.tau).astype(np.float32)
    inner = ((grid > 0) & (grid < sdf.resolution - 1)).all(axis=1)
    return grid[inner & (np.abs(s) < 1)]


def test_raster_order_is_x_y_z() -> None:
    assert raster_offsets()[1 * 64 + 2 * 8 + 3].tolist() == [1, 2, 3]

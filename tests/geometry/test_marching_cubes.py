"""Extraction: right surface, closed, welded, outward, equal to the plain reference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import (
    box,
    field_from_dense,
    field_of,
    sparse_field,
    sphere_distance,
    torus_distance,
)
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.marching_cubes_reference import extract_mesh_reference
from threed_gen.geometry.marching_cubes_tables import EDGES, case_table, case_triangles
from threed_gen.geometry.mesh import (
    Mesh,
    boundary_edge_count,
    edge_counts,
    face_areas,
    face_normals,
    half_edges,
    is_watertight,
    signed_volume,
)
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sparse_sdf import SparseSDF, raster_offsets


def assert_manifold(mesh: Mesh) -> None:
    """Closed, every edge used exactly once in each direction, no face without area."""
    assert len(mesh.faces)
    _, counts = edge_counts(mesh.faces)
    np.testing.assert_array_equal(counts, 2)
    assert is_consistent(mesh.faces)
    assert (face_areas(mesh) > 0).all()
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)


def sphere_field(resolution: int = 32, radius: float = 0.31) -> SparseSDF:
    return field_of(lambda p: sphere_distance(p, radius, 0.5), resolution, 4 / resolution)


def test_sphere() -> None:
    mesh = extract_mesh(sphere_field())
    assert_manifold(mesh)
    d = sphere_distance(mesh.vertices, 0.31, 0.5)
    assert np.abs(d).max() < 0.04 / 32  # linear interpolation of a curved field
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.31**3, rel=0.01)
    outward = mesh.triangles.mean(1) - 0.5
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    weight = face_areas(mesh)
    cosine = np.einsum("ij,ij->i", face_normals(mesh), outward)
    assert (cosine * weight).sum() / weight.sum() > 0.99


def test_torus() -> None:
    sdf = field_of(lambda p: torus_distance(p - 0.5, 0.3, 0.12), 40, 4 / 40)
    mesh = extract_mesh(sdf)
    assert_manifold(mesh)
    assert np.abs(torus_distance(mesh.vertices - 0.5, 0.3, 0.12)).max() < 0.08 / 40
    assert signed_volume(mesh) == pytest.approx(2 * np.pi**2 * 0.3 * 0.12**2, rel=0.01)
    euler = len(mesh.vertices) - len(edge_counts(mesh.faces)[0]) + len(mesh.faces)
    assert euler == 0


def test_original_frame_round_trip() -> None:
    source = Mesh(box().vertices * [4, 2, 3] + [100, -7, 0.5], box().faces)
    mesh = extract_mesh(build_sparse_sdf(source, 64))
    assert_manifold(mesh)
    voxel = 4 / 0.95 / 64
    np.testing.assert_allclose(mesh.bounds, source.bounds, atol=voxel * 0.01)
    assert signed_volume(mesh) == pytest.approx(24, rel=0.005)


def test_no_second_wall_inside() -> None:
    # Deep inside and far outside are unknown; taking them for outside would add an inner sphere.
    mesh = extract_mesh(sphere_field(64))
    assert (np.linalg.norm(mesh.vertices - 0.5, axis=1) > 0.3).all()


@pytest.mark.parametrize("seed", range(12))
def test_random_signs_are_closed(seed: int) -> None:
    """Every case and every pair of neighbouring cases: noise, with outside all around."""
    rng = np.random.default_rng(seed)
    dense = rng.uniform(-1, 1, (24, 24, 24)) + rng.uniform(-0.8, 0.8)
    dense[[0, -1]] = dense[:, [0, -1]] = dense[:, :, [0, -1]] = 0.5
    assert_manifold(extract_mesh(field_from_dense(dense, 4 / 24)))


@pytest.mark.parametrize("seed", range(4))
def test_fields_of_exact_zeros_and_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.choice([-0.5, 0.0, 0.5], (16, 16, 16))
    dense[[0, -1]] = dense[:, [0, -1]] = dense[:, :, [0, -1]] = 0.5
    assert_manifold(extract_mesh(field_from_dense(dense, 4 / 16)))


def random_bricks(seed: int, count: int = 12) -> SparseSDF:
    """Noise on scattered bricks: surfaces run into the rim of what is known."""
    rng = np.random.default_rng(seed)
    keys = rng.choice(4**3, count, replace=False)
    bricks = np.stack(np.unravel_index(keys, (4, 4, 4)), -1)
    return sparse_field(bricks, rng.uniform(-1, 1, (count, 512)), 32)


def canonical(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices sorted, faces started at their lowest corner and sorted."""
    order = np.lexsort(mesh.vertices.round(12).T)
    rank = np.argsort(order)
    faces = rank[mesh.faces]
    start = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (start + np.arange(3)) % 3, axis=1)
    return mesh.vertices[order], faces[np.lexsort(faces.T)]


@pytest.mark.parametrize("level", [0.0, 0.2])
@pytest.mark.parametrize("make", [sphere_field, lambda: random_bricks(3)], ids=["sphere", "noise"])
def test_equals_reference(make: object, level: float) -> None:
    sdf = make()  # type: ignore[operator]
    fast, slow = canonical(extract_mesh(sdf, level)), canonical(extract_mesh_reference(sdf, level))
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-12)
    np.testing.assert_array_equal(fast[1], slow[1])
    assert len(fast[1])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extract_mesh(sphere_field())
    monkeypatch.setattr("threed_gen.geometry.marching_cubes._CHUNK_BRICKS", 5)
    pieces = extract_mesh(sphere_field())
    assert whole.vertices.tobytes() == pieces.vertices.tobytes()
    assert whole.faces.tobytes() == pieces.faces.tobytes()


def test_surface_ends_at_the_rim_of_the_known() -> None:
    sdf = sphere_field()
    half = sdf.bricks[:, 0] < 2
    parts = [a[half] for a in (sdf.bricks, sdf.sdf, sdf.band, sdf.sharp)]
    mesh = extract_mesh(SparseSDF(*parts, sdf.resolution, sdf.tau, 1.0, (0.0, 0.0, 0.0)))
    assert len(mesh.faces)
    assert mesh.vertices[:, 0].max() <= 15.5 / 32 + 1e-9
    directed = half_edges(mesh.faces)
    assert len(np.unique(directed, axis=0)) == len(directed)
    rim = boundary_edge_count(mesh)
    assert rim > 20
    counted, uses = edge_counts(mesh.faces)
    on_rim = mesh.vertices[counted[uses == 1]][:, :, 0]
    np.testing.assert_allclose(on_rim, 15.5 / 32)
    assert len(on_rim) == rim


def test_level_moves_the_surface() -> None:
    tau = 4 / 32
    mesh = extract_mesh(sphere_field(), level=0.2)
    r = np.linalg.norm(mesh.vertices - 0.5, axis=1)
    np.testing.assert_allclose(r, 0.31 + 0.2 * tau, atol=1e-3)


def test_no_bricks_and_no_crossing() -> None:
    empty = sparse_field(np.zeros((0, 3), int), np.zeros((0, 512)), 32)
    one_sided = sparse_field(np.array([[1, 1, 1]]), np.full((1, 512), 0.5), 32)
    for sdf in (empty, one_sided):
        mesh = extract_mesh(sdf)
        assert mesh.faces.shape == (0, 3)
        assert mesh.vertices.shape == (0, 3)
        assert not is_watertight(mesh)


def test_one_brick() -> None:
    d = np.linalg.norm(raster_offsets() - 3.5, axis=1) - 2.2
    sdf = sparse_field(np.array([[3, 0, 3]]), (d / 4)[None], 32)
    mesh = extract_mesh(sdf)
    assert_manifold(mesh)
    np.testing.assert_allclose(
        mesh.bounds[1], np.array([30.2, 6.2, 30.2]) / 32 - 0.1 / 32, atol=4e-3
    )


def test_last_brick_of_the_grid_has_no_neighbour() -> None:
    # The next brick in x of the last one must not be taken from the next row of the grid.
    s = np.full((2, 512), -0.5)
    s[0] = 0.5
    mesh = extract_mesh(sparse_field(np.array([[0, 0, 3], [0, 1, 0]]), s, 32))
    assert len(mesh.faces) == 0


def test_cases_use_each_crossed_edge() -> None:
    for case in range(256):
        crossed = {
            e for e, (c, axis) in enumerate(EDGES) if (case >> c ^ case >> (c | 1 << axis)) & 1
        }
        assert {e for t in case_triangles(case) for e in t} == crossed
    table = case_table()
    assert table.counts.max() <= 12
    assert table.counts.sum() == len(table.triangles)
    assert table.counts[0] == table.counts[255] == 0
    # One inside corner: one triangle, and its normal points away from that corner.
    assert [len(case_triangles(1 << c)) for c in range(8)] == [1] * 8

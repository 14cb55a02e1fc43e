"""Inside and outside: closed forms, wrong orientations, several shells, and rays through edges."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import (
    box,
    box_distance,
    flipped,
    icosphere,
    inverted,
    join,
    mesh_positions,
    sphere_distance,
    torus,
)
from threed_gen.geometry.mesh import Mesh, merge_by_position
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.repair import repair
from threed_gen.geometry.scanline import column_crossings
from threed_gen.geometry.signs import InsideTest
from threed_gen.geometry.sparse_sdf import SparseSDF, voxel_centres

BALL = icosphere(0.6, 3)
SMALL = icosphere(0.3, 2)
TINY = icosphere(0.12, 2)


def assert_inside(sdf: SparseSDF, expected: np.ndarray, distance: np.ndarray) -> None:
    clear = np.abs(distance) > 1e-9
    np.testing.assert_array_equal(sdf.inside[clear], expected[clear])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
def test_flipped_faces_change_nothing(share: float) -> None:
    right = build_sparse_sdf(BALL, 48)
    wrong = build_sparse_sdf(flipped(BALL, share), 48)
    np.testing.assert_array_equal(wrong.sdf, right.sdf)


@pytest.mark.parametrize("mesh", [box(), torus(1, 0.3, 30, 16), BALL], ids=["box", "torus", "ball"])
def test_inside_out(mesh: Mesh) -> None:
    a, b = build_sparse_sdf(mesh, 48), build_sparse_sdf(inverted(mesh), 48)
    np.testing.assert_array_equal(a.sdf, b.sdf)
    assert a.inside.any()


@pytest.mark.parametrize("whole", [False, True], ids=["as is", "all inverted"])
def test_a_hollow_is_filled(whole: bool) -> None:
    mesh = join(BALL, inverted(SMALL), TINY)  # a ball in a hole in a ball
    sdf = build_sparse_sdf(inverted(mesh) if whole else mesh, 64)
    np.testing.assert_array_equal(sdf.sdf, build_sparse_sdf(BALL, 64).sdf)


def test_solid_inside_a_solid_stays_filled() -> None:
    sdf = build_sparse_sdf(join(BALL, SMALL), 64)
    r = np.linalg.norm(mesh_positions(sdf), axis=-1)
    assert sdf.inside[r < 0.58].all()
    assert (sdf.sdf[r < 0.58] < 0).all()


def test_nested_shells_without_a_clear_winding_are_filled() -> None:
    sdf = build_sparse_sdf(join(flipped(BALL, 0.5, 1), flipped(SMALL, 0.5, 2)), 64)
    np.testing.assert_array_equal(sdf.sdf, build_sparse_sdf(BALL, 64).sdf)


@pytest.mark.parametrize("second", [BALL, inverted(BALL)], ids=["alike", "one inverted"])
def test_overlapping_solids_unite(second: Mesh) -> None:
    moved = Mesh(second.vertices + np.array([0.5, 0, 0]), second.faces)
    sdf = build_sparse_sdf(join(BALL, moved), 64)
    p = mesh_positions(sdf)
    d = np.minimum(sphere_distance(p, 0.6), sphere_distance(p, 0.6, (0.5, 0, 0)))
    sure = np.abs(d) > 0.02
    np.testing.assert_array_equal(sdf.inside[sure], (d < 0)[sure])


def test_doubled_with_both_windings() -> None:
    double = merge_by_position(join(BALL, inverted(BALL)))
    np.testing.assert_array_equal(build_sparse_sdf(double, 48).sdf, build_sparse_sdf(BALL, 48).sdf)


def test_glued_boxes_lose_the_wall_between_them() -> None:
    left, right = box((0, 0, 0), (1, 1, 1)), box((1, 0, 0), (2, 1, 1))
    glued = merge_by_position(join(left, right))
    sdf = build_sparse_sdf(glued, 64)
    d = box_distance(mesh_positions(sdf), (0, 0, 0), (2, 1, 1))
    assert np.abs(sdf.sdf - np.clip(d / sdf.scale / sdf.tau, -1, 1)).max() < 1e-5
    assert_inside(sdf, d < 0, d)


def test_double_sheet_beside_a_solid_becomes_a_shell() -> None:
    # Nothing of the file is lost: the fin is drawn from both sides, and is one sheet.
    fin = Mesh(np.array([[1, 0, 0], [1, 1, 0], [2, 0, 0.5]]), np.array([[0, 1, 2], [0, 2, 1]]))
    sdf = build_sparse_sdf(merge_by_position(join(box(), fin)), 48)
    p = mesh_positions(sdf)
    on_fin = (np.abs(p - np.array([1.5, 0.25, 0.25])) < 0.5 * sdf.scale / 48).all(axis=-1)
    assert on_fin.any()
    assert sdf.inside[on_fin].all()


def test_boxes_that_share_an_edge() -> None:
    a, b = ((0, 0, 0), (1, 1, 1)), ((1, 1, 0), (2, 2, 1))
    touching = merge_by_position(join(box(*a), box(*b)))
    for mesh in (touching, flipped(touching, 0.5)):
        sdf = build_sparse_sdf(mesh, 48)
        p = mesh_positions(sdf)
        d = np.minimum(box_distance(p, *a), box_distance(p, *b))
        assert_inside(sdf, d < 0, d)


def moebius_prism() -> Mesh:
    """A closed surface that no winding can make consistent: a triangulated Klein bottle."""
    n, m = 24, 16
    u = np.arange(n)[:, None] * 2 * np.pi / n
    v = np.arange(m)[None, :] * 2 * np.pi / m
    r = 2 + np.cos(u / 2) * np.sin(v) - np.sin(u / 2) * np.sin(2 * v)
    z = np.sin(u / 2) * np.sin(v) + np.cos(u / 2) * np.sin(2 * v)
    vertices = np.stack([r * np.cos(u), r * np.sin(u), z], -1).reshape(-1, 3)
    faces = []
    for i in range(n):
        for j in range(m):

            def at(i: int, j: int) -> int:
                return i % n * m + (j % m if i < n else -j % m)

            a, b, c, d = at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)
            faces += [(a, b, c), (a, c, d)]
    return Mesh(vertices, np.array(faces))


def test_unorientable_surface_falls_back_to_parity() -> None:
    mesh = moebius_prism()
    surface = repair(mesh)
    assert surface.closed.tolist() == [True]
    assert surface.orientable.tolist() == [False]
    sdf = build_sparse_sdf(mesh, 48)
    sdf.validate()
    assert sdf.inside.any()
    # An independent count: crossings of a ray along x, by the sign of areas in the y-z plane.
    voxels = sdf.voxel_coords().reshape(-1, 3)
    voxels = voxels[np.random.default_rng(0).choice(len(voxels), 400, replace=False)]
    p = voxel_centres(voxels, 48) * sdf.scale + np.array(sdf.offset)
    a, b, c = np.moveaxis(mesh.triangles[None, :, :, 1:] - p[:, None, None, 1:], 2, 0)

    def turn(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    share = np.stack([turn(b, c), turn(c, a), turn(a, b)], axis=-1)
    hit = (share > 0).all(axis=-1) | (share < 0).all(axis=-1)
    total = np.where(hit, share.sum(axis=-1), 1)
    x = np.einsum("nfk,fk->nf", share, mesh.triangles[..., 0]) / total
    odd = np.count_nonzero(hit & (x > p[:, :1]), axis=1) % 2 == 1
    assert 0.1 < odd.mean() < 0.9
    np.testing.assert_array_equal(InsideTest(surface, 48)(voxels), odd)


def test_patches_add_up() -> None:
    moved = Mesh(BALL.vertices + np.array([0.5, 0, 0]), BALL.faces)
    surface = repair(join(BALL, inverted(moved)))
    p = np.array([[-0.3, 0, 0], [0.25, 0, 0], [0.8, 0, 0], [1.4, 0, 0]])
    unit = (p - np.array(surface.offset)) / surface.scale
    voxel = np.floor(unit * 64).astype(np.int64)
    assert InsideTest(surface, 64).winding(voxel).tolist() == [1, 2, 1, 0]


def test_rays_through_vertices_and_edges() -> None:
    """A grid box whose vertices, edges and diagonals all lie exactly on voxel columns."""
    r, n = 16, 9
    lattice = (np.arange(n) + 4 + 0.5) / r
    import trimesh

    solid = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    low, high = lattice[0], lattice[-1]
    vertices = (np.asarray(solid.vertices) + 0.5) * (high - low) + low
    corners = vertices[np.asarray(solid.faces)]
    crossings = column_crossings(corners, np.ones(len(corners), int), r)
    axis = np.arange(r)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    winding = crossings.winding(grid)
    assert set(np.unique(winding)) == {0, 1}
    strictly = ((grid > 4) & (grid < 12)).all(-1)
    beyond = ((grid < 4) | (grid > 12)).any(-1)
    assert winding[strictly].all()
    assert not winding[beyond].any()


def test_crossings_of_random_closed_surfaces_cancel() -> None:
    """Cones over random closed walks: closed by construction, otherwise as wild as can be."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        r = int(rng.choice([16, 24, 40]))
        # Half of all coordinates exactly on voxel centres, to provoke ties.
        points = rng.random((8, 3)) * 0.9 + 0.05
        snap = rng.random((8, 3)) < 0.5
        points[snap] = (np.rint(points[snap] * r - 0.5) + 0.5) / r
        ring = np.stack([np.arange(2, 8), np.roll(np.arange(2, 8), -1)], 1)
        faces = np.concatenate(
            [np.c_[np.zeros(6, int), ring], np.c_[np.ones(6, int), ring[:, ::-1]]]
        )
        column_crossings(points[faces], np.ones(len(faces), int), r)


def test_open_surface_is_noticed_by_its_crossings() -> None:
    corners = box((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)).triangles[:-1]
    with pytest.raises(ValueError, match="not closed"):
        column_crossings(corners, np.ones(len(corners), int), 16)

"""The policy `winding`: lids where the winding number is one half, closed and where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import box, icosphere, mesh_positions, sphere_distance
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh, is_watertight, signed_volume
from threed_gen.geometry.narrow_band import build_sparse_sdf, measure
from threed_gen.geometry.repair import repair
from threed_gen.geometry.sparse_sdf import default_tau


def bowl(height: float) -> Mesh:
    """A unit ball without the faces above a height."""
    ball = icosphere(1.0, 4)
    return Mesh(ball.vertices, ball.faces[ball.triangles[..., 2].mean(axis=1) < height])


@pytest.mark.parametrize("tau_voxels", [1.75, 4.0])
@pytest.mark.parametrize("height", [0.0, 0.7])
def test_an_opening_gets_a_smooth_lid(height: float, tau_voxels: float) -> None:
    r = 64
    mesh = bowl(height)
    sdf, report = measure(repair(mesh, "winding"), r, tau=tau_voxels / r)
    sdf.validate()
    assert report.sheet_share < 0.02
    out = extract_mesh(sdf)
    assert is_watertight(out)
    voxel = sdf.scale / r
    p = mesh_positions(sdf)
    below = p[..., 2] < height - 4 * voxel
    d = sphere_distance(p, 1.0)
    clear = below & (np.abs(d) > 0.3 * voxel)
    assert np.mean(sdf.inside[clear] != (d < 0)[clear]) < 0.001
    # By symmetry the level of a half ball is flat; of any bowl it lies between rim and sphere.
    top = out.vertices[np.linalg.norm(out.vertices[:, :2], axis=1) < 0.1]
    top = top[top[:, 2] > -0.5]
    assert (top[:, 2] > height - 3 * voxel).all()
    assert (top[:, 2] < 1.0).all()
    below_rim = 2 / 3 * np.pi + np.pi * (height - height**3 / 3)
    assert below_rim * 0.97 < signed_volume(out) < 4 / 3 * np.pi


def test_lids_cross_from_brick_to_brick_without_a_tear() -> None:
    """Three holes, tilted: the lids cut the corners of bricks in every way."""
    ball = icosphere(1.0, 4)
    rng = np.random.default_rng(1)
    for resolution in (64, 96):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        way = rng.normal(size=(3, 3))
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        middle = ball.triangles.mean(axis=1)
        kept = (middle @ way.T < rng.uniform(0.75, 0.95, 3)).all(axis=1)
        mesh = Mesh(ball.vertices @ turn.T, ball.faces[kept])
        tau = 1.75 / resolution
        sdf = build_sparse_sdf(mesh, resolution, tau, policy="winding", cap_extent=0.01)
        assert is_watertight(extract_mesh(sdf))


def test_lid_is_where_the_winding_number_is_one_half() -> None:
    import igl

    mesh = bowl(0.5)
    sdf = build_sparse_sdf(mesh, 64, policy="winding")
    out = extract_mesh(sdf)
    voxel = sdf.scale / 64
    lid = np.linalg.norm(out.vertices, axis=1) < 1 - 3 * voxel
    assert np.count_nonzero(lid) > 200
    points = out.vertices[lid]
    near = np.sqrt(igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)[0])
    winding = igl.winding_number(mesh.vertices, mesh.faces, points[near > 3 * voxel])
    np.testing.assert_allclose(winding, 0.5, atol=0.02)


def test_closed_mesh_does_not_change() -> None:
    a, b = build_sparse_sdf(box(), 48), build_sparse_sdf(box(), 48, policy="winding")
    np.testing.assert_array_equal(a.sdf, b.sdf)


def test_single_sheet_stays_a_sheet() -> None:
    """A nearly flat sheet surrounds next to nothing: at most a blister on its hollow side."""
    sheet = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0.1], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    shell, lid = (extract_mesh(measure(repair(sheet, p), 64)[0]) for p in ("shell", "winding"))
    assert is_watertight(lid)
    assert signed_volume(lid) == pytest.approx(signed_volume(shell), rel=0.1)


def test_same_bits_on_every_run() -> None:
    a, b = (build_sparse_sdf(bowl(0.5), 64, policy="winding") for _ in range(2))
    for name in ("bricks", "sdf", "band", "sharp"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.tau == default_tau(64)

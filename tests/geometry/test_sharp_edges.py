"""Sharp voxels: exactly those of the band within two voxels of an edge that turns enough."""

from __future__ import annotations

from collections.abc import Callable

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
)
from threed_gen.geometry.mesh import Mesh, merge_by_position
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sharp_edges import sharp_edges

HIGH = np.array([1.0, 0.83, 0.71])
# Turned out of the grid's axes, so that voxels lie at all distances from the edges.
TURN = np.linalg.qr(np.array([[3.0, 1.0, 2.0], [-1.0, 4.0, 1.0], [-2.0, -1.0, 5.0]]))[0]


def box_edge_distance(p: np.ndarray) -> np.ndarray:
    """Distance to the nearest of the twelve edges of the box from 0 to HIGH."""
    nearest = np.full(p.shape[:-1], np.inf)
    for axis in range(3):
        others = [i for i in range(3) if i != axis]
        along = np.maximum(np.maximum(-p[..., axis], p[..., axis] - HIGH[axis]), 0)
        for corner in np.ndindex(2, 2):
            across = p[..., others] - np.array(corner) * HIGH[others]
            nearest = np.minimum(nearest, np.hypot(along, np.linalg.norm(across, axis=-1)))
    return nearest


@pytest.mark.parametrize("change", [lambda m: m, inverted, lambda m: flipped(m, 0.5)])
def test_box(change: Callable[[Mesh], Mesh]) -> None:
    straight = box((0, 0, 0), tuple(HIGH))
    sdf = build_sparse_sdf(change(Mesh(straight.vertices @ TURN.T, straight.faces)), 48)
    p = mesh_positions(sdf) @ TURN
    voxels = box_edge_distance(p) / sdf.scale * 48
    band = np.abs(box_distance(p, 0, HIGH)) / sdf.scale < sdf.tau
    expected = (voxels <= 2) & band
    for low, high in ((1.95, 2.0), (2.0, 2.05)):
        assert ((voxels > low) & (voxels < high)).any()
    unclear = np.abs(voxels - 2) < 1e-6
    np.testing.assert_array_equal(sdf.sharp[~unclear], expected[~unclear])
    assert not (sdf.sharp & ~sdf.band).any()


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_windings_do_not_matter(share: float) -> None:
    ball, cube = icosphere(1.0, 3), box()
    assert len(sharp_edges(flipped(ball, share), 30)) == 0
    np.testing.assert_array_equal(sharp_edges(flipped(cube, share), 30), sharp_edges(cube, 30))


def test_smooth_mesh_has_none() -> None:
    sdf = build_sparse_sdf(icosphere(1.0, 4), 32)
    assert not sdf.sharp.any()


def test_angle_decides() -> None:
    ball = icosphere(1.0, 1)
    assert len(sharp_edges(ball, 60)) == 0
    assert len(sharp_edges(ball, 10)) == 120
    assert len(sharp_edges(box(), 89)) == 12
    assert len(sharp_edges(box(), 91)) == 0
    assert build_sparse_sdf(ball, 32, sharp_angle_degrees=10).sharp.any()
    with pytest.raises(ValueError, match="angle"):
        sharp_edges(box(), 0)


def test_edges_where_more_than_two_faces_meet_are_sharp() -> None:
    touching = merge_by_position(join(box(), box((1, 1, 0), (2, 2, 1))))
    shared = touching.vertices[sharp_edges(touching, 179)]
    assert shared.shape == (1, 2, 3)
    np.testing.assert_allclose(shared[0, :, :2], 1)

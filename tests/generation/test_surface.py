"""Field to surface: one wall, and only what the outside can touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.geometry.shapes import field_of, sphere_distance
from threed_gen.generation.surface import surface_of_field
from threed_gen.geometry.connectivity import component_labels
from threed_gen.geometry.mesh import Mesh, boundary_edge_count, signed_volume
from threed_gen.geometry.sparse_sdf import SparseSDF

R = 48
Distance = Callable[[np.ndarray], np.ndarray]


def ball(radius: float, centre: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Distance:
    return lambda p: sphere_distance(p, radius, centre)


def field(distance: Distance) -> SparseSDF:
    return field_of(distance, R, 4 / R)


def radii(mesh: Mesh) -> tuple[float, float]:
    r = np.linalg.norm(mesh.vertices - 0.5, axis=1)
    return float(r.min()), float(r.max())


def parts(mesh: Mesh) -> int:
    return int(component_labels(mesh.faces).max()) + 1


def test_a_ball_has_one_wall_and_looks_outwards() -> None:
    mesh = surface_of_field(field(ball(0.4)))
    assert parts(mesh) == 1 and boundary_edge_count(mesh) == 0
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    assert radii(mesh) == pytest.approx((0.4, 0.4), abs=0.1 / R)


def hollow(p: np.ndarray) -> np.ndarray:
    """A shell from 0.25 to 0.42, and a ball of 0.12 in it."""
    shell = np.maximum(ball(0.42)(p), -ball(0.25)(p))
    return np.minimum(shell, ball(0.12)(p))


def test_cavities_and_what_floats_in_them_are_left_out() -> None:
    sdf = field(hollow)
    mesh, whole = surface_of_field(sdf), surface_of_field(sdf, keep_inner=True)
    assert (parts(mesh), parts(whole)) == (1, 3)
    assert radii(mesh)[0] > 0.4 and radii(whole)[0] < 0.13
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.42**3, rel=0.01)


def test_a_cavity_that_is_open_stays() -> None:
    """A drilled hole leads water in."""

    def drilled(p: np.ndarray) -> np.ndarray:
        across = np.hypot(p[..., 1] - 0.5, p[..., 2] - 0.5) - 0.08
        return np.maximum(hollow(p), -np.maximum(across, 0.5 - p[..., 0]))

    mesh = surface_of_field(field(drilled))
    assert parts(mesh) == 2 and radii(mesh)[0] < 0.13  # the shell, in and out; the ball


def test_two_solids_side_by_side_both_stay() -> None:
    two = field(
        lambda p: np.minimum(ball(0.2, (0.25, 0.5, 0.5))(p), ball(0.15, (0.75, 0.5, 0.5))(p))
    )
    mesh = surface_of_field(two)
    assert parts(mesh) == 2
    assert signed_volume(mesh) == pytest.approx(4 / 3 * np.pi * (0.2**3 + 0.15**3), rel=0.02)


def test_other_parts_are_not_changed() -> None:
    """Noise: what is kept is a subset of the faces, at the same places."""
    rng = np.random.default_rng(0)
    sdf = field(ball(0.4))
    noisy = replace(sdf, sdf=(sdf.sdf + rng.normal(0, 0.5, sdf.sdf.shape)).astype(np.float32))
    mesh, whole = surface_of_field(noisy, 0.1), surface_of_field(noisy, 0.1, keep_inner=True)
    kept = {tuple(row) for row in mesh.triangles.reshape(-1, 9).tolist()}
    every = {tuple(row) for row in whole.triangles.reshape(-1, 9).tolist()}
    assert kept < every and len(kept) > 1000


@pytest.mark.parametrize("side", [1, -1])
def test_an_open_surface_stays(side: int) -> None:
    """A plane that ends where the known ends: the outside is on one side of it only."""
    mesh = surface_of_field(field(lambda p: side * (p[..., 0] - 0.49)))
    assert parts(mesh) == 1 and len(mesh.faces) == 2 * (R - 1) ** 2


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_frame_of_the_field_is_heeded(scale: float) -> None:
    sdf = field(hollow)
    moved = replace(sdf, scale=scale, offset=(-7.0, 2.0, 0.25))
    mesh, plain = surface_of_field(moved), surface_of_field(sdf)
    np.testing.assert_allclose(mesh.vertices, plain.vertices * scale + [-7.0, 2.0, 0.25])


def test_no_crossing_no_faces() -> None:
    sdf = field(ball(0.4))
    empty = surface_of_field(replace(sdf, sdf=np.full_like(sdf.sdf, 0.5)))
    assert empty.faces.shape == (0, 3)
    none = replace(sdf, bricks=sdf.bricks[:0], sdf=sdf.sdf[:0], band=sdf.band[:0])
    assert surface_of_field(none).faces.shape == (0, 3)

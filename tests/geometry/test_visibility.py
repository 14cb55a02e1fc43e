"""Open patches look towards the sky."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.damage import knot
from tests.geometry.repaired import same_surface
from tests.geometry.shapes import flipped, icosphere, inverted, join
from tests.geometry.test_caps import BALL, open_box, without
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.repair import repair
from threed_gen.geometry.visibility import outward_votes


def unit(mesh: Mesh) -> Mesh:
    surface = repair(mesh)
    return Mesh(surface.vertices[: len(mesh.vertices)], mesh.faces)


def votes(mesh: Mesh) -> int:
    patch = np.zeros(len(mesh.faces), int)
    return int(outward_votes(unit(mesh), patch, np.array([True]))[0])


def bowl(height: float) -> Mesh:
    """What of a ball lies below a height."""
    return without(BALL, BALL.triangles.mean(axis=1)[:, 2] > height)


@pytest.mark.parametrize("mesh", [open_box(), bowl(0.0), bowl(0.8), bowl(-0.7)])
def test_the_back_of_a_bowl_is_its_outside(mesh: Mesh) -> None:
    for wound in (mesh, inverted(mesh), flipped(mesh, 0.3)):
        surface = repair(wound)
        np.testing.assert_array_equal(surface.faces, mesh.faces)
        assert surface.closed.tolist() == [False]


def test_votes_of_both_sides_add_up_to_nothing() -> None:
    assert votes(bowl(0.5)) > 1000
    assert abs(votes(bowl(0.5)) + votes(inverted(bowl(0.5)))) < 0.02 * votes(bowl(0.5))


def test_votes_match_the_share_of_sky() -> None:
    """From anywhere in a ball, a part of it fills its share of the area of the (cosine) view."""
    for height in (-0.4, 0.0, 0.6):
        inner = (1 - height) / 2  # of the rays at the inside leave through the opening
        assert votes(bowl(height)) / 40_000 == pytest.approx(1 - inner, abs=0.02)


def test_samples_are_shared_out_by_area() -> None:
    """Two cups far from each other, their faces in no order: 4/5 of the rays for the larger."""
    mesh = join(bowl(0.0), Mesh(0.5 * bowl(0.0).vertices + np.array([1e3, 0, 0]), bowl(0.0).faces))
    patch = np.repeat([0, 1], len(mesh.faces) // 2)
    order = np.random.default_rng(0).permutation(len(patch))
    mixed = Mesh(unit(mesh).vertices * 100, mesh.faces[order])  # rays start well off the surface
    found = outward_votes(mixed, patch[order], np.array([True, True]))
    np.testing.assert_allclose(found, [16_000, 4_000], rtol=0.05)


def test_a_sheet_that_sees_the_same_on_both_sides_keeps_its_winding() -> None:
    flat = np.array([[0, -0.5, 0], [1, -0.5, 0], [1, 0.5, 0], [0, 0.5, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    # Each is its own mirror image in the plane of the other.
    leaf, other = Mesh(flat, faces), Mesh(flat[:, [0, 2, 1]] + np.array([1.5, 0, 0]), faces)
    for mesh in (join(leaf, other), join(inverted(leaf), other), join(leaf, inverted(other))):
        surface = repair(mesh)
        np.testing.assert_array_equal(surface.faces, mesh.faces)
        assert not outward_votes(surface.mesh, surface.patch, ~surface.closed).any()


def soup_of(mesh: Mesh, shrink: float = 0.96) -> Mesh:
    middle = mesh.triangles.mean(axis=1, keepdims=True)
    corners = middle + shrink * (mesh.triangles - middle)
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


@pytest.mark.parametrize("policy", ["shell", "cap", "winding"])
def test_a_soup_is_wound_outwards_triangle_by_triangle(policy: str) -> None:
    soup = soup_of(BALL)
    surface = repair(flipped(soup, 0.3), policy)
    assert same_surface(surface, soup)
    assert surface.report.patches == len(soup.faces)
    assert not surface.closed.any()
    assert not surface.cap.any()


def test_triangles_in_doubt_get_more_rays() -> None:
    """A soup with hollows, where two rays of a triangle often disagree."""
    soup = flipped(soup_of(knot(100, 24)), 0.5)
    right = soup_of(knot(100, 24)).faces
    wrong = (repair(soup).faces != right).any(axis=1)
    assert wrong.mean() < 0.002


def test_closed_patches_are_not_asked_and_hide_the_sky() -> None:
    """A piece of a wall inside a ball sees nothing, so it stays as it is."""
    piece = Mesh(0.2 * bowl(0.3).vertices, bowl(0.3).faces)
    for wound in (piece, inverted(piece)):
        surface = repair(join(BALL, wound), cap_extent=0.001)
        inner = surface.faces[surface.patch == 1] - len(BALL.vertices)
        np.testing.assert_array_equal(inner, wound.faces)


def test_same_rays_on_every_run() -> None:
    mesh = unit(soup_of(icosphere(1.0, 3)))
    patch = np.arange(len(mesh.faces))
    asked = np.ones(len(patch), dtype=bool)
    first = outward_votes(mesh, patch, asked)
    np.testing.assert_array_equal(first, outward_votes(mesh, patch, asked))
    assert (first > 0).all()
    assert not outward_votes(mesh, patch, ~asked).any()

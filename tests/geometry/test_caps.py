"""Lids on openings: which get one, what it looks like, and loops that touch or never close."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.repaired import POLICIES, moebius_strip, positions, same_surface, volumes
from tests.geometry.shapes import box, icosphere, inverted, join
from threed_gen.geometry.caps import find_caps
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.mesh import Mesh, is_watertight, merge_by_position
from threed_gen.geometry.repair import repair
from threed_gen.geometry.surface import OpenSurface

BALL = icosphere(1.0, 4)


def without(mesh: Mesh, gone: np.ndarray) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces[~gone])


def star(mesh: Mesh, vertex: int) -> np.ndarray:
    """The faces around a vertex, bool [F]."""
    return (mesh.faces == vertex).any(axis=1)


def open_box() -> Mesh:
    """Without its upper side z = 1."""
    return without(box(), (box().triangles[:, :, 2] == 1).all(axis=1))


def test_a_box_without_a_lid_stays_open_unless_asked() -> None:
    for policy in ("shell", "winding"):
        surface = repair(open_box(), policy)
        assert surface.closed.tolist() == [False]
        assert surface.report.caps == 0
        assert surface.report.open_share == 1.0
        np.testing.assert_array_equal(surface.faces, open_box().faces)


def test_the_policy_cap_puts_a_lid_on_a_box() -> None:
    surface = repair(open_box(), "cap")
    assert surface.closed.tolist() == [True]
    assert (surface.report.caps, surface.report.cap_share) == (1, pytest.approx(1 / 6))
    lid = positions(surface)[surface.faces[surface.cap]]
    assert len(lid) == 4
    assert (lid[:, :, 2] == 1).all()
    assert (lid == [0.5, 0.5, 1]).all(axis=2).any(axis=1).all()  # a fan around the middle
    np.testing.assert_allclose(volumes(surface), [1.0])
    assert is_consistent(surface.faces)


def test_openings_are_measured_by_their_box() -> None:
    gone = star(BALL, 700)
    rim = BALL.triangles[gone].reshape(-1, 3)
    share = np.ptp(rim, axis=0).max() / 2
    for factor, caps in ((0.99, 0), (1.01, 1)):
        surface = repair(without(BALL, gone), cap_extent=share * factor)
        assert surface.report.caps == caps
        assert surface.closed.tolist() == [caps == 1]
        assert surface.cap.sum() == caps * gone.sum()
    assert (volumes(surface) > 4.1).all()


def test_a_missing_triangle_comes_back_as_it_was() -> None:
    for gone in ([5], [5, 900], [5, 900, 2000, 2001]):
        missing = np.isin(np.arange(len(BALL.faces)), gone)
        surface = repair(without(BALL, missing))
        assert surface.closed.tolist() == [True]
        if len(gone) < 4:
            assert same_surface(surface, BALL)
            assert surface.report.caps == surface.cap.sum() == len(gone)


@pytest.mark.parametrize("petals", [2, 3])
def test_openings_that_touch_in_one_corner(petals: int) -> None:
    corner = int(np.argmax(np.bincount(BALL.faces.ravel()) == 6))
    around = np.flatnonzero(star(BALL, corner))
    # Every second face around the corner: their borders all pass through it.
    middle = BALL.triangles[around].mean(axis=1)
    out = BALL.vertices[corner]
    side = np.cross(out, [0.3, 0.5, 0.8])
    angle = np.arctan2((middle - out) @ np.cross(out, side), (middle - out) @ side)
    gone = around[np.argsort(angle)][:: 2 if petals == 3 else 3]
    assert len(gone) == petals
    surface = repair(without(BALL, np.isin(np.arange(len(BALL.faces)), gone)))
    assert surface.report.caps == petals
    assert same_surface(surface, BALL)


def test_larger_openings_that_touch_in_one_corner() -> None:
    first = 700
    ring = np.unique(BALL.faces[star(BALL, first)])
    second = int(  # a corner whose star shares exactly one corner with the star of the first
        next(
            v
            for v in range(len(BALL.vertices))
            if len(np.intersect1d(np.unique(BALL.faces[star(BALL, v)]), ring)) == 1
        )
    )
    gone = star(BALL, first) | star(BALL, second)
    opened = without(BALL, gone)
    caps = find_caps(opened.vertices, opened.faces, np.zeros(len(opened.faces), int), 1.0, 1.0)
    assert caps.loops == 2
    assert sorted(np.unique(caps.faces[:, 2], return_counts=True)[1]) == [6, 6]
    surface = repair(opened, cap_extent=0.2)
    assert surface.closed.all()
    middles = positions(surface)[len(BALL.vertices) :]
    expected = [opened.vertices[np.unique(f[f != v])].mean(axis=0)
                for v in (first, second) for f in [BALL.faces[star(BALL, v)]]]  # fmt: skip
    np.testing.assert_allclose(np.sort(middles, axis=0), np.sort(expected, axis=0), atol=1e-12)


def test_a_border_without_end_spoils_no_other() -> None:
    """A Moebius strip that touches the rim of an opening in one corner."""
    opened, strip = without(BALL, star(BALL, 700)), moebius_strip()
    corner = int(BALL.faces[star(BALL, 700)][0][BALL.faces[star(BALL, 700)][0] != 700][0])
    moved = 0.02 * (strip.vertices - strip.vertices[0]) + BALL.vertices[corner]
    moved[0] = BALL.vertices[corner]
    surface = repair(merge_by_position(join(opened, Mesh(moved, strip.faces))), cap_extent=0.2)
    assert len(surface.vertices) == len(BALL.vertices) - 1 + len(moved) - 1 + 1
    assert sorted(surface.closed.tolist()) == [False, True]
    assert surface.report.caps == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_sheets_get_no_second_copy_of_themselves(policy: OpenSurface) -> None:
    """A leaf, a bent leaf and a single triangle beside a solid: their border is no opening."""
    leaf = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]]), [[0, 1, 2], [0, 2, 3]])
    bent = Mesh(leaf.vertices + np.array([[0, 0, 0.2], [0, 0, 0], [0, 0, 0.2], [0, 0, 0]]),
                leaf.faces)  # fmt: skip
    triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    parts = [Mesh(0.02 * m.vertices + np.array([2 + k, 0, 0]), m.faces)
             for k, m in enumerate((leaf, bent, triangle))]  # fmt: skip
    surface = repair(join(BALL, *parts), policy)
    assert surface.report.caps == 0
    assert sorted(surface.closed.tolist()) == [False, False, False, True]


def test_a_hole_in_a_sheet_is_closed_but_not_its_border() -> None:
    n = 21
    v = np.arange(n * n).reshape(n, n)
    a, b, c, d = (k.ravel() for k in (v[:-1, :-1], v[1:, :-1], v[1:, 1:], v[:-1, 1:]))
    x, y = np.divmod(np.arange(n * n), n)
    sheet = Mesh(
        np.stack([x, y, 0.02 * (x - 10) ** 2], -1).astype(float),
        np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]),
    )
    middle = int(v[10, 10])
    for policy in POLICIES:
        surface = repair(without(sheet, star(sheet, middle)), policy, cap_extent=0.11)
        assert surface.closed.tolist() == [False]
        assert surface.report.caps == 1
        filled = positions(surface)[surface.faces[surface.cap]].mean(axis=(0, 1))
        np.testing.assert_allclose(filled[:2], [10, 10], atol=0.2)


def test_a_small_cup_becomes_solid() -> None:
    upper = BALL.triangles.mean(axis=1)[:, 2] > 0
    cup = without(BALL, upper)
    small = Mesh(0.02 * cup.vertices + np.array([3, 0, 0]), cup.faces)
    surface = repair(join(BALL, inverted(small)))
    assert surface.closed.tolist() == [True, True]
    np.testing.assert_allclose(volumes(surface)[1], 0.02**3 * 2 / 3 * np.pi, rtol=0.03)


def test_a_shallow_dish_is_a_sheet_unless_lids_are_asked_for() -> None:
    dish = without(BALL, BALL.triangles.mean(axis=1)[:, 2] > -0.7)
    small = Mesh(0.02 * dish.vertices + np.array([3, 0, 0]), dish.faces)
    for policy in POLICIES:
        surface = repair(join(BALL, small), policy)
        assert surface.closed.tolist() == [True, policy == "cap"]


def test_a_tube_is_capped_at_both_ends() -> None:
    angle = np.arange(16) * np.pi / 8
    ring = np.stack([0.02 * np.cos(angle), 0.02 * np.sin(angle), 0 * angle], -1)
    tube = np.concatenate([ring, ring + np.array([0, 0, 1.0])])
    i, j = np.arange(16), (np.arange(16) + 1) % 16
    mesh = Mesh(tube, np.concatenate([np.stack([i, j, j + 16], -1),
                                      np.stack([i, j + 16, i + 16], -1)]))  # fmt: skip
    for winding in (mesh, inverted(mesh)):
        surface = repair(winding)
        assert surface.report.caps == 2
        area = 8 * np.sin(np.pi / 8) * 0.02**2
        np.testing.assert_allclose(volumes(surface), [area])


def test_an_opening_without_area_is_closed() -> None:
    """A slit: a row of edges was cut, so both sides have their own corners at the same places."""
    equator = np.flatnonzero(np.abs(BALL.vertices[:, 2]) < 1e-9)
    order = equator[np.argsort(np.arctan2(*BALL.vertices[equator, :2].T))]
    cut = order[1:4]  # inner corners of the slit; its ends stay welded
    below = BALL.triangles.mean(axis=1)[:, 2] < 0
    faces = BALL.faces.copy()
    for new, old in enumerate(cut, start=len(BALL.vertices)):
        faces[below[:, None] & (faces == old)] = new
    opened = Mesh(np.concatenate([BALL.vertices, BALL.vertices[cut]]), faces)
    surface = repair(opened, cap_extent=0.2)
    assert surface.report.caps == 1
    assert surface.closed.tolist() == [True]
    assert surface.report.cap_share < 2e-4
    np.testing.assert_allclose(volumes(surface), volumes(repair(BALL)), rtol=1e-4)


def test_two_percent_of_the_faces_missing() -> None:
    for seed in range(3):
        kept = np.random.default_rng(seed).random(len(BALL.faces)) > 0.02
        surface = repair(without(BALL, ~kept), cap_extent=0.2)
        assert surface.closed.tolist() == [True]
        assert is_watertight(Mesh(surface.vertices, surface.faces))
        np.testing.assert_allclose(volumes(surface), volumes(repair(BALL)), rtol=2e-3)


def test_half_of_the_faces_missing_never_fails() -> None:
    """Borders that touch in every other corner."""
    for seed in range(3):
        kept = np.random.default_rng(seed).random(len(BALL.faces)) > 0.5
        for policy in POLICIES:
            surface = repair(without(BALL, ~kept), policy)
            closed = surface.faces[surface.closed_faces]
            assert is_consistent(closed)
            assert (surface.report.caps > 0) or policy != "cap"

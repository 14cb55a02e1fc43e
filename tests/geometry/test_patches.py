"""Cutting into patches and winding them alike: parts, walls, fins, and surfaces with no winding."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.repaired import (
    POLICIES,
    glued,
    klein_bottle,
    moebius_strip,
    positions,
    same_surface,
    volumes,
)
from tests.geometry.shapes import box, flipped, icosphere, inverted, join
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.repair import repair
from threed_gen.geometry.surface import OpenSurface

BALL = icosphere(0.6, 3)
STACK = box((0, 0, 0), (1, 1, 1)), box((0, 0, 1), (1, 1, 2))


def test_a_thousand_parts() -> None:
    rng = np.random.default_rng(0)
    parts = [box(low, low + rng.uniform(0.2, 0.9, 3)) for low in np.ndindex(10, 10, 10)]
    turned = rng.random(1000) < 0.5
    mesh = join(*[inverted(p) if t else p for p, t in zip(parts, turned, strict=True)])
    surface = repair(mesh)
    assert surface.report.patches == surface.report.closed_patches == 1000
    assert same_surface(surface, join(*parts))
    assert surface.report.flipped == 12 * turned.sum()


def test_parts_come_one_after_the_other_each_in_its_first_order() -> None:
    """The order of faces decides the last bits of distances, and they must not move."""
    both = join(BALL, icosphere(0.3, 2, (2, 0, 0)))
    mixed = Mesh(both.vertices, both.faces[np.random.default_rng(0).permutation(len(both.faces))])
    first = (mixed.faces < len(BALL.vertices)).all(axis=1)
    parts = [mixed.faces[first], mixed.faces[~first]]
    surface = repair(mixed)
    np.testing.assert_array_equal(surface.faces, np.concatenate(parts if first[0] else parts[::-1]))


@pytest.mark.parametrize("seed", range(4))
def test_boxes_that_touch_along_an_edge_are_two(seed: int) -> None:
    mesh = glued(box((0, 0, 0), (1, 1, 1)), box((1, 1, 0), (2, 2, 1)))
    surface = repair(flipped(mesh, 0.5, seed))
    assert same_surface(surface, mesh)
    assert surface.closed.tolist() == [True, True]
    np.testing.assert_allclose(volumes(surface), [1, 1])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_moebius_strip_is_one_open_patch_without_a_winding(policy: OpenSurface) -> None:
    strip = moebius_strip()
    surface = repair(strip, policy, cap_extent=1.0)
    assert surface.closed.tolist() == [False]
    assert surface.orientable.tolist() == [False]
    assert same_surface(surface, strip) or same_surface(surface, inverted(strip))
    assert surface.report.caps == 0
    assert surface.report.open_share == 1.0


def test_a_klein_bottle_is_closed_and_left_to_parity() -> None:
    surface = repair(klein_bottle())
    assert surface.closed.tolist() == [True]
    assert surface.orientable.tolist() == [False]
    np.testing.assert_array_equal(surface.faces, klein_bottle().faces)
    assert surface.report.flipped == 0


def test_a_wall_across_a_box_makes_three_patches() -> None:
    wall = Mesh(STACK[1].vertices, STACK[1].faces[8:10])  # the floor of the upper box, once
    assert (wall.triangles[:, :, 2] == 1).all()
    outside = repair(glued(*STACK))
    mesh = glued(Mesh(positions(outside), outside.faces), wall)
    surface = repair(mesh)
    assert surface.closed.tolist() == [False] * 3
    assert surface.report.open_share == 1.0
    capped = repair(mesh, "cap")
    assert sorted(capped.closed.tolist()) == [False, True, True]  # the wall itself needs no lid
    np.testing.assert_allclose(np.abs(volumes(capped)[capped.closed]), [1, 1])


def test_a_skirt_around_a_box_leaves_it_closed() -> None:
    outside = repair(glued(*STACK))
    ring = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]])
    wide = (ring - [0.5, 0.5, 0]) * [2, 2, 1] + [0.5, 0.5, 0]
    i, j = np.arange(4), (np.arange(4) + 1) % 4
    faces = np.concatenate([np.stack([i, j, j + 4], -1), np.stack([i, j + 4, i + 4], -1)])
    skirt = Mesh(np.concatenate([ring, wide]), faces)
    for seed in range(6):
        skin = flipped(Mesh(positions(outside), outside.faces), 0.4, seed)
        whole = glued(skin, flipped(skirt, 0.5, seed))
        surface = repair(whole)
        assert sorted(surface.closed.tolist()) == [False, True]
        np.testing.assert_allclose(volumes(surface)[surface.closed], [2.0])
        assert is_consistent(surface.faces[surface.closed_faces])
        assert surface.report.open_share == pytest.approx(3 / 13)

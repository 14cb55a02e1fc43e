"""The damages do what they say, and the truth they are measured against is the truth."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.damage import (
    COMBINATIONS,
    GAP,
    HOLE_RADIUS,
    KINDS,
    WALL,
    flange,
    inside_any,
    knot,
    longest_side,
    winding_number,
)
from tests.geometry.shapes import box
from threed_gen.geometry.connectivity import component_labels, is_consistent
from threed_gen.geometry.mesh import Mesh, boundary_edge_count, face_areas, signed_volume

SHAPES = {"knot": knot(), "flange": flange()}
shapes = pytest.mark.parametrize("mesh", SHAPES.values(), ids=SHAPES)


def near(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    face = rng.integers(len(mesh.faces), size=count)
    return mesh.triangles[face].mean(axis=1) + rng.normal(size=(count, 3)) * 0.01


@shapes
def test_the_shapes_are_sound(mesh: Mesh) -> None:
    assert boundary_edge_count(mesh) == 0
    assert is_consistent(mesh.faces)
    assert component_labels(mesh.faces).max() == 0
    assert signed_volume(mesh) > 0.1
    winding = winding_number(mesh, near(mesh, 30))
    assert np.abs(winding - np.rint(winding)).max() < 1e-9  # closed, and it nowhere meets itself
    assert set(np.rint(winding)) == {0, 1}


def test_one_is_smooth_and_one_has_slivers() -> None:
    assert 20_000 <= len(SHAPES["knot"].faces) <= 60_000
    corners = SHAPES["flange"].triangles
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    aspect = longest**2 / (2 * face_areas(SHAPES["flange"]))
    assert np.median(aspect) > 50
    assert aspect.max() > 100


@pytest.mark.parametrize("point", [(0.5, 0.5, 0.5), (0.1, 0.9, 0.99), (2, 0.5, 0.5), (-1, -1, -1)])
def test_the_winding_number_of_a_box(point: tuple[float, ...]) -> None:
    inside = all(0 < x < 1 for x in point)
    assert winding_number(box(), np.array([point]))[0] == pytest.approx(float(inside), abs=1e-12)
    assert inside_any([box(), box((-3, -3, -3), (-2, -2, -2))], np.array([point])) == inside


def test_the_winding_number_of_one_side_of_a_box() -> None:
    side = Mesh(box().vertices, box().faces[:2])
    assert winding_number(side, np.full((1, 3), 0.5))[0] == pytest.approx(1 / 6)


@shapes
@pytest.mark.parametrize("name", [*KINDS, *COMBINATIONS])
def test_every_damage_is_seeded_and_leaves_the_parts_alone(mesh: Mesh, name: str) -> None:
    damage = {**KINDS, **COMBINATIONS}[name]
    first, parts = damage(mesh, 3)
    again, _ = damage(mesh, 3)
    assert first.vertices.tobytes() == again.vertices.tobytes()
    assert first.faces.tobytes() == again.faces.tobytes()
    assert parts[0] is mesh
    assert not np.array_equal(first.faces, mesh.faces)
    assert all(boundary_edge_count(part) == 0 and signed_volume(part) > 0 for part in parts)


@shapes
def test_the_damages_are_as_large_as_they_say(mesh: Mesh) -> None:
    count, side = len(mesh.faces), longest_side(mesh)
    made = {name: damage(mesh, 0)[0] for name, damage in {**KINDS, **COMBINATIONS}.items()}
    assert signed_volume(made["whole mesh inverted"]) == pytest.approx(-signed_volume(mesh))
    assert len(made["2 % faces missing"].faces) == count - int(0.02 * count)
    loose = made["soup with gaps"]
    assert len(np.unique(loose.faces)) == 3 * count
    left = face_areas(loose) / face_areas(mesh)
    assert 0.9 < left.min() <= left.max() < 1 - GAP
    hole = made["one big hole"]
    kept = set(map(tuple, hole.faces.tolist()))
    lost = mesh.triangles[[tuple(f) not in kept for f in mesh.faces.tolist()]].mean(axis=1)
    assert 0 < np.linalg.norm(np.ptp(lost, axis=0)) < 2 * np.sqrt(3) * HOLE_RADIUS * side
    assert len(lost) + len(hole.faces) == count
    turned = (made["30 % faces flipped"].faces != mesh.faces).any(axis=1).mean()
    assert turned == pytest.approx(0.3, abs=0.02)
    assert len(made["double-sided"].faces) == 2 * count
    assert len(made["overlapping parts"].faces) == 2 * count
    a, b = made["overlapping parts"], made["overlapping, one inverted"]
    np.testing.assert_array_equal(a.faces[:count], b.faces[:count])
    np.testing.assert_array_equal(a.faces[count:], b.faces[count:, ::-1])


@shapes
def test_the_inner_wall_lies_inside(mesh: Mesh) -> None:
    import igl

    damaged, _ = KINDS["inner inverted wall"](mesh, 0)
    wall = Mesh(damaged.vertices, damaged.faces[len(mesh.faces) :])
    assert signed_volume(wall) < 0
    some = wall.triangles.mean(axis=1)[::37]
    assert inside_any([mesh], some[::5]).all()
    away = np.sqrt(igl.point_mesh_squared_distance(some, mesh.vertices, mesh.faces)[0])
    assert (
        0.25 * WALL
        < away.min() / longest_side(mesh)
        <= away.max() / longest_side(mesh)
        < 1.1 * WALL
    )


@shapes
def test_overlapping_parts_do_overlap(mesh: Mesh) -> None:
    _, (first, second) = KINDS["overlapping parts"](mesh, 0)
    points = np.concatenate([near(first, 25), near(second, 25)])
    both = inside_any([first], points) & inside_any([second], points)
    assert both.any()
    assert inside_any([first, second], points).sum() > inside_any([first], points).sum()

"""Repair on shapes whose right answer is known: what goes, what stays, and which way it looks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.repaired import POLICIES, glued, moebius_strip, positions, same_surface, volumes
from tests.geometry.shapes import box, flipped, icosphere, inverted, join, torus
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.mesh import Mesh, MeshError
from threed_gen.geometry.repair import repair
from threed_gen.geometry.surface import OpenSurface

BALL = icosphere(0.6, 3)

LEFT, RIGHT = box((0, 0, 0), (1, 1, 1)), box((1, 0, 0), (2, 1, 1))
LEAF = Mesh(np.array([[1, 0, 0], [1, 1, 0], [2, 0, 0.5]]), np.array([[0, 1, 2], [0, 2, 1]]))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_sound_mesh_stays_as_it_is(policy: OpenSurface) -> None:
    for mesh in (box(), BALL, torus(1, 0.3, 30, 16)):
        surface = repair(mesh, policy)
        np.testing.assert_array_equal(surface.faces, mesh.faces)
        np.testing.assert_allclose(positions(surface), mesh.vertices, atol=1e-15)
        assert surface.closed.tolist() == surface.orientable.tolist() == [True]
        assert surface.policy == policy
        report = surface.report
        assert (report.patches, report.closed_patches) == (1, 1)
        assert report.degenerate == report.duplicates == report.flipped == report.caps == 0
        assert report.open_share == report.cap_share == 0.0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 1.0])
def test_flips_are_turned_back(share: float) -> None:
    wrong = flipped(BALL, share, 1)
    surface = repair(wrong)
    np.testing.assert_array_equal(surface.faces, BALL.faces)
    assert surface.report.flipped == np.count_nonzero((wrong.faces != BALL.faces).any(axis=1))


def test_one_flipped_face_of_a_box() -> None:
    faces = box().faces.copy()
    faces[7] = faces[7][::-1]
    surface = repair(Mesh(box().vertices, faces))
    np.testing.assert_array_equal(surface.faces, box().faces)
    assert surface.report.flipped == 1


@pytest.mark.parametrize("copy", [BALL, inverted(BALL), flipped(BALL, 0.5)])
def test_doubled_faces_stay_once(copy: Mesh) -> None:
    for copies in (1, 2, 3):
        surface = repair(glued(BALL, *[copy] * copies))
        assert same_surface(surface, glued(BALL))
        assert surface.report.duplicates == copies * len(BALL.faces)


def test_two_glued_boxes_lose_the_wall_between_them() -> None:
    surface = repair(glued(LEFT, RIGHT))
    assert surface.report.duplicates == 4
    assert surface.closed.tolist() == [True]
    np.testing.assert_allclose(volumes(surface), [2.0])
    assert not (positions(surface)[surface.faces][:, :, 0] == 1).all(axis=1).any()


def test_a_third_copy_of_the_wall_goes_too() -> None:
    wall = Mesh(LEFT.vertices, LEFT.faces[(LEFT.triangles[:, :, 0] == 1).all(axis=1)])
    surface = repair(glued(LEFT, RIGHT, wall))
    assert surface.report.duplicates == 6
    np.testing.assert_allclose(volumes(surface), [2.0])


def test_a_doubled_wall_in_an_open_box_stays_once() -> None:
    lids = [(m.triangles[:, :, 2] == 1).all(axis=1) for m in (LEFT, RIGHT)]
    halves = [Mesh(m.vertices, m.faces[~k]) for m, k in zip((LEFT, RIGHT), lids, strict=True)]
    surface = repair(glued(*halves))
    assert surface.report.duplicates == 2
    walls = positions(surface)[surface.faces][:, :, 0]
    assert np.count_nonzero((walls == 1).all(axis=1)) == 2


def test_a_doubled_leaf_on_a_box_stays_once_and_leaves_the_box_closed() -> None:
    surface = repair(glued(box(), LEAF))
    assert surface.report.duplicates == 1
    assert sorted(surface.closed.tolist()) == [False, True]
    np.testing.assert_allclose(volumes(surface)[surface.closed], [1.0])
    assert np.count_nonzero(~surface.closed_faces) == 1


def test_a_wall_and_a_leaf_of_one_part_decide_for_themselves() -> None:
    leaf = Mesh(LEAF.vertices + np.array([1, 0, 0]), LEAF.faces)
    surface = repair(glued(LEFT, RIGHT, leaf))
    assert surface.report.duplicates == 5
    np.testing.assert_allclose(volumes(surface)[surface.closed], [2.0])


def test_a_doubled_sheet_is_a_sheet() -> None:
    tent = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1.0]]), [[0, 1, 2], [1, 3, 2]])
    surface = repair(join(tent), "shell")
    doubled = repair(Mesh(tent.vertices, np.concatenate([tent.faces, tent.faces[:, ::-1]])))
    np.testing.assert_array_equal(surface.faces, doubled.faces)
    assert doubled.report.duplicates == 2
    assert not doubled.closed.any()


def test_collapsed_faces_go() -> None:
    faces = np.concatenate([[[0, 0, 1]], box().faces, [[2, 3, 2]]])
    surface = repair(Mesh(box().vertices, faces))
    np.testing.assert_array_equal(surface.faces, box().faces)
    assert surface.report.degenerate == 2


def test_a_face_without_area_that_holds_its_neighbours_together_stays() -> None:
    # A corner more in the middle of an edge, known to one of the two faces there only.
    mesh = box()
    a, b = mesh.faces[0][:2].tolist()
    middle = len(mesh.vertices)
    c = int(mesh.faces[0][2])
    faces = [[a, middle, c], [middle, b, c], [a, b, middle], *mesh.faces[1:].tolist()]
    vertices = np.concatenate([mesh.vertices, [mesh.vertices[[a, b]].mean(axis=0)]])
    surface = repair(Mesh(vertices, faces))
    assert surface.closed.tolist() == [True]
    assert surface.report.degenerate == 0
    assert len(surface.faces) == 14
    np.testing.assert_allclose(volumes(surface), [1.0])


def test_a_face_without_area_on_its_own_goes() -> None:
    line = Mesh(np.array([[3, 0, 0], [4, 0, 0], [5, 0, 0.0]]), np.array([[0, 1, 2]]))
    surface = repair(join(box(), line))
    assert surface.report.degenerate == 1
    assert surface.report.patches == 1


@pytest.mark.parametrize("inner", [icosphere(0.3, 2), inverted(icosphere(0.3, 2))])
def test_a_shell_inside_another_looks_outwards(inner: Mesh) -> None:
    surface = repair(join(BALL, inner))
    assert surface.closed.all()
    assert (volumes(surface) > 0).all()


def rotated(points: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return points @ q.T + [3, -2, 7]


def grid(n: int = 12) -> Mesh:
    x, y = (k.ravel() for k in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    v = np.arange(n * n).reshape(n, n)
    a, b, c, d = (k.ravel() for k in (v[:-1, :-1], v[1:, :-1], v[1:, 1:], v[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return Mesh(np.stack([x, y, 0 * x], -1) / (n - 1), faces)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("depth", [0.0, 0.9e-4])
@pytest.mark.parametrize("turned", [False, True])
def test_plane_figures_are_refused(policy: OpenSurface, depth: float, turned: bool) -> None:
    points = grid().vertices.copy()
    points[:, 2] = depth * np.random.default_rng(0).uniform(-1, 1, len(points))
    with pytest.raises(MeshError, match="flat") as caught:
        repair(Mesh(rotated(points) if turned else points, grid().faces), policy)
    assert caught.value.reason == "flat"


def test_one_triangle_and_a_line_are_flat() -> None:
    for points in (np.eye(3), np.outer(np.arange(3), [1, 2, 3.0])):
        with pytest.raises(MeshError) as caught:
            repair(Mesh(points, np.array([[0, 1, 2]])))
        assert caught.value.reason == "flat"


def test_a_thin_plate_and_a_relief_are_not_flat() -> None:
    assert repair(box((0, 0, 0), (1, 1, 1e-3))).closed.all()
    points = grid().vertices.copy()
    points[30, 2] = 1e-3
    assert repair(Mesh(rotated(points), grid().faces)).report.patches == 1


@pytest.mark.parametrize(
    ("mesh", "reason"),
    [
        (Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), "no_faces"),
        (Mesh(np.ones((3, 3)), np.array([[0, 1, 2]])), "no_extent"),
        (Mesh(np.array([[0, 0, 0], [1, 1, 0], [0, 1, np.nan]]), np.array([[0, 1, 2]])), "non_finite"),  # noqa: E501
        (Mesh(box().vertices, np.array([[0, 0, 7], [1, 6, 1], [2, 2, 2]])), "no_faces"),
    ],
)  # fmt: skip
def test_meshes_with_nothing_in_them(mesh: Mesh, reason: str) -> None:
    with pytest.raises(MeshError, match=r"^[^\n]+$") as caught:
        repair(mesh)
    assert caught.value.reason == reason


def torn() -> Mesh:
    rng = np.random.default_rng(2)
    kept = rng.random(len(BALL.faces)) > 0.1
    beside = Mesh(BALL.vertices + np.array([1.5, 0, 0]), BALL.faces[:-200])
    return join(flipped(Mesh(BALL.vertices, BALL.faces[kept]), 0.4), beside, moebius_strip())


@pytest.mark.parametrize("policy", POLICIES)
def test_same_bits_on_every_run(policy: OpenSurface) -> None:
    a, b = repair(torn(), policy), repair(torn(), policy)
    for name in ("vertices", "faces", "patch", "closed", "orientable", "cap"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.report == b.report
    assert 0 < a.report.open_share < 1 or policy == "cap"


def test_the_surface_is_what_it_promises() -> None:
    for policy in POLICIES:
        surface = repair(torn(), policy)
        assert set(surface.patch.tolist()) == set(range(len(surface.closed)))
        assert len(np.unique(np.sort(surface.faces, axis=1), axis=0)) == len(surface.faces)
        for p in range(len(surface.closed)):
            faces = surface.faces[surface.patch == p]
            _, uses = np.unique(
                np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1),
                axis=0,
                return_counts=True,
            )
            assert surface.closed[p] == (uses % 2 == 0).all()
            if surface.closed[p] and surface.orientable[p]:
                assert is_consistent(faces)

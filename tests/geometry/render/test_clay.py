"""The clay renderer: what is where in the picture, and that it is deterministic."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay import (
    FIELD_OF_VIEW,
    FIT,
    SLATE,
    Frame,
    Scene,
    corner_normals,
    frame_of,
    on_paper,
    render,
    turntable,
)


def mesh(shape: trimesh.Trimesh, shift: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    return Mesh(np.asarray(shape.vertices) + np.asarray(shift), np.asarray(shape.faces))


BALL = mesh(trimesh.creation.icosphere(subdivisions=4))
CUBE = mesh(trimesh.creation.box((1, 1, 1)))


def test_ball_covers_the_disc_that_perspective_says() -> None:
    alpha = Scene(BALL).view(size=128)[..., 3]
    body = alpha > 0.99
    # A unit ball seen from distance d covers tan(asin(1/d)) / tan(fov/2) of the half picture.
    d = FIT / np.sin(np.radians(FIELD_OF_VIEW / 2))
    radius = np.tan(np.arcsin(1 / d)) / np.tan(np.radians(FIELD_OF_VIEW / 2)) * 64
    assert body.sum() == pytest.approx(np.pi * radius**2, rel=0.03)
    rows, columns = np.nonzero(body)
    assert columns.mean() == pytest.approx(63.5, abs=0.5)
    assert rows.mean() == pytest.approx(63.5, abs=0.5)


def test_camera_sides_and_up() -> None:
    """A small ball to the right of the frame (x), above it (y), seen along -z."""
    frame = Frame((0.0, 0.0, 0.0), 1.0)
    small = trimesh.creation.icosphere(subdivisions=2, radius=0.2)
    for shift, azimuth, elevation, where in (
        ((0.6, 0, 0), 0.0, 0.0, (0, 1)),
        ((0, 0.6, 0), 0.0, 0.0, (-1, 0)),
        ((0, 0, 0.6), 90.0, 0.0, (0, -1)),
        ((0, 0, 0.6), 0.0, 89.0, (1, 0)),
    ):
        picture = Scene(mesh(small, shift), frame).view(azimuth, elevation, 64)
        rows, columns = np.nonzero(picture[..., 3] > 0.99)
        offset = np.array([rows.mean() - 31.5, columns.mean() - 31.5])
        assert np.abs(offset).max() > 12
        assert tuple(np.sign(np.round(offset / 5)).astype(int)) == where


def test_light_from_above_and_shadow_on_the_floor() -> None:
    picture = Scene(CUBE).view(azimuth=45, size=96)
    body = picture[..., 3] > 0.99
    rows = np.nonzero(body.any(axis=1))[0]
    brightness = picture[..., :3].mean(axis=-1)
    column = np.nonzero(body.all(axis=1) | body.any(axis=1))[0]
    assert len(column)
    top, bottom = brightness[rows[0] + 8][body[rows[0] + 8]], brightness[rows[-1] - 14]
    assert top.mean() > bottom[body[rows[-1] - 14]].mean() + 0.05
    shadow = (picture[..., 3] > 0.02) & (picture[..., 3] < 0.9)
    assert shadow[48:].sum() > 5 * shadow[:40].sum()


def test_same_picture_twice_and_other_colour() -> None:
    first, second = render(CUBE, size=48), render(CUBE, size=48)
    assert first.dtype == np.uint8
    assert first.shape == (48, 48, 3)
    assert np.array_equal(first, second)
    blue = render(CUBE, size=48, color=SLATE).astype(int)
    assert (
        (blue[..., 2] - blue[..., 0]).max() > 20 > (first[..., 2].astype(int) - first[..., 0]).max()
    )


def test_empty_and_broken_meshes_give_plain_paper() -> None:
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    assert len(np.unique(render(empty, size=16).reshape(-1, 3), axis=0)) == 1
    assert frame_of(empty) == Frame((0.0, 0.0, 0.0), 1.0)
    nowhere = Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))
    assert len(np.unique(render(nowhere, size=16).reshape(-1, 3), axis=0)) == 1


def test_turntable_goes_around() -> None:
    views = turntable(CUBE, count=4, size=32)
    assert len(views) == 4
    # A cube looks nearly the same after a quarter turn (only the grain of the sampling differs).
    difference = np.abs(views[0].astype(int) - views[1]).mean()
    assert difference < 3


def test_sky_is_open_on_a_ball_and_closed_inside_a_box() -> None:
    ball = Scene(BALL)
    outside = np.array([[0, 1.0, 0], [1.0, 0, 0]])
    assert ball.sky(outside, outside).min() == 1.0
    inside = Scene(CUBE).sky(np.array([[0.0, 0, 0]]), np.array([[0.0, 1, 0]]), reach=2.0)
    assert inside[0] < 0.6  # rays end on the walls, at a distance of about 0.6 to 1 of 2


def test_normals_are_smooth_on_a_ball_and_sharp_on_a_cube() -> None:
    on_ball = corner_normals(BALL.vertices, BALL.faces)
    radial = (
        BALL.vertices[BALL.faces] / np.linalg.norm(BALL.vertices[BALL.faces], axis=2)[..., None]
    )
    assert np.einsum("fkc,fkc->fk", on_ball, radial).min() > 0.998
    on_cube = corner_normals(CUBE.vertices, CUBE.faces)
    assert np.allclose(np.abs(on_cube).max(axis=2), 1.0)  # each along one axis


def test_normals_average_all_faces_within_the_crease() -> None:
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(9, 3)), rng.integers(0, 9, (40, 3))
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    found = corner_normals(vertices, faces, 60.0)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    weighted = np.cross(b - a, c - a)
    unit = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    for face in range(len(faces)):
        for corner in range(3):
            around = (faces == faces[face, corner]).any(axis=1) & (unit @ unit[face] > 0.5)
            total = weighted[around].sum(axis=0)
            assert np.allclose(found[face, corner], total / np.linalg.norm(total), atol=1e-5)


def test_on_paper_blends() -> None:
    picture = np.zeros((1, 2, 4), np.float32)
    picture[0, 1] = (1.0, 0.0, 0.0, 0.5)
    flat = on_paper(picture, background=(1.0, 1.0, 1.0))
    assert flat[0, 0].tolist() == [255, 255, 255]
    assert flat[0, 1].tolist() == [255, 128, 128]

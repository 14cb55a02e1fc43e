"""Cameras: the laws within their bounds and by their definitions, and what a camera projects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from threed_gen.geometry.render.camera import (
    CENTRE,
    Camera,
    Law,
    cameras,
    radical_inverse,
    uniform,
)

SIDES = (0.95, 0.4, 0.62)
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2


def back(camera: Camera) -> np.ndarray:
    away = np.subtract(camera.eye, camera.target)
    return away / np.linalg.norm(away)


def test_a_camera_projects_as_a_pinhole_does() -> None:
    camera = Camera((0.5, 0.5, 3.5), CENTRE, 60.0)  # in front, looks along -z
    right, up, forward = camera.axes()
    assert np.allclose([right, up, forward], [[1, 0, 0], [0, 1, 0], [0, 0, -1]])
    edge = 3 * math.tan(math.radians(30))
    points = np.array([CENTRE, (0.5 + edge, 0.5, 0.5), (0.5, 0.5 + edge / 2, 0.5), (0.5, 0.5, 4)])
    seen = camera.project(points)
    assert np.allclose(seen[:3], [[0.5, 0.5, 3], [1, 0.5, 3], [0.5, 0.25, 3]])
    assert seen[3, 2] < 0


def test_straight_down_has_axes_too() -> None:
    for y in (-3.0, 3.0):
        axes = np.stack(Camera((0.5, y, 0.5), CENTRE, 30.0).axes())
        assert np.allclose(axes @ axes.T, np.eye(3))


def test_the_papers_law_keeps_its_bounds_and_fills_them() -> None:
    found = cameras("paper", "asset", 400, SIDES)
    elevation = np.degrees([math.asin(back(c)[1]) for c in found])
    azimuth = np.degrees([math.atan2(back(c)[2], back(c)[0]) for c in found])
    focal = np.array([18 / math.tan(math.radians(c.fov) / 2) for c in found])
    for values, low, high in ((elevation, 10, 40), (azimuth, 0, 180), (focal, 30, 100)):
        assert low <= values.min() < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.05 * (high - low)  # uniform: ±3.5 sigma


def test_trellis_is_the_hammersley_set_with_an_offset() -> None:
    assert [radical_inverse(n) for n in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    count = 24
    found = cameras("trellis", "asset", count, SIDES)
    a, b = uniform("asset/trellis", 2)
    for number, camera in enumerate(found):
        digits = f"{number:b}"[::-1]
        v = sum(int(d) / 2 ** (k + 1) for k, d in enumerate(digits)) + b
        y = math.sin(math.acos(1 - 2 * (number + a) / count) - math.pi / 2)
        flat = math.sqrt(1 - y * y)
        expected = [flat * math.cos(2 * math.pi * v), y, flat * math.sin(2 * math.pi * v)]
        assert np.allclose(back(camera), expected)


def test_trellis_draws_the_inverse_square_of_the_radius_evenly() -> None:
    found = cameras("trellis", "asset", 800, SIDES)
    ball = np.linalg.norm(SIDES) / 2
    radius = np.array([np.linalg.norm(np.subtract(c.eye, c.target)) for c in found])
    sine = np.array([math.sin(math.radians(c.fov) / 2) for c in found])
    assert np.allclose(radius * sine, ball)  # the sphere touches the edge of the picture
    low, high = (math.sin(math.radians(fov) / 2) ** 2 for fov in (10, 70))
    share = (np.sort((ball / radius) ** 2) - low) / (high - low)
    assert np.abs(share - (np.arange(800) + 0.5) / 800).max() < 0.06  # Kolmogorov-Smirnov


@pytest.mark.parametrize("law", ["paper", "trellis"])
@pytest.mark.parametrize("sides", [SIDES, (0.95, 0.95, 0.95), (0.01, 0.95, 0.02)])
def test_the_whole_box_is_in_the_picture(law: Law, sides: tuple[float, ...]) -> None:
    corners = np.array(CENTRE) + CORNERS * sides
    closest = 0.0
    for camera in cameras(law, "asset", 100, sides):
        seen = camera.project(corners)
        assert seen[:, 2].min() > 0
        assert seen[:, :2].min() >= 0 and seen[:, :2].max() <= 1
        closest = max(closest, np.abs(seen[:, :2] - 0.5).max() * 2)
    assert law == "trellis" or closest > 0.85  # and it fills the picture


@pytest.mark.parametrize("law", ["paper", "trellis"])
def test_cameras_come_from_the_hash_alone(law: Law) -> None:
    first = cameras(law, "one", 8, SIDES)
    np.random.seed(1)
    assert cameras(law, "one", 8, SIDES) == first
    other = cameras(law, "two", 8, SIDES)
    assert all(a.eye != b.eye for a, b in zip(first, other, strict=True))
    draws = [camera.fov for camera in first + other]
    assert len(set(draws)) == 16

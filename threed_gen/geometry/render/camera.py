"""Cameras of conditioning views: what a pinhole camera is, and the two laws that place them.

World: the shape's unit frame (geometry/frame.py), y up, in which the box's middle is (0.5, 0.5,
0.5). Pictures are square, so one field of view holds for both directions. Every draw comes from
the asset's hash, so an asset always gets the same cameras; no global random state is touched.

`paper` (Direct3D-S2): elevation 10 to 40 degrees, azimuth 0 to 180, focal length 30 to 100 mm,
45 views. The paper does not say, so these are ours: draws are uniform and independent; the sensor
is 36 mm wide; azimuth 90 looks at the side towards +z, which glTF calls the front, so that the
views cover the front half; the camera stands as close as the box allows, with 5 % to spare.

`trellis` (TRELLIS and TRELLIS.2): directions are the Hammersley set on the sphere with a random
offset, and 1/radius² is drawn uniformly between the radii at which fields of view of 70 and 10
degrees just hold the bounding sphere. Theirs is the sphere of the unit cube, ours the sphere
around the shape's own box; theirs is unseeded, ours comes from the hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["paper", "trellis"]
LAWS: tuple[Law, ...] = ("paper", "trellis")
Point = tuple[float, float, float]
Floats = NDArray[np.float64]

CENTRE: Point = (0.5, 0.5, 0.5)
ELEVATION = (10.0, 40.0)  # degrees; the paper's
AZIMUTH = (0.0, 180.0)  # degrees; the paper's
FOCAL = (30.0, 100.0)  # mm; the paper's
SENSOR = 36.0  # mm; ours
SPARE = 1.05  # distance of `paper` cameras, 1 = the box touches the edge of the picture
FIELD_OF_VIEW = (10.0, 70.0)  # degrees; TRELLIS's
_POLE = 1e-4  # cosine below which "up" no longer says how a camera is turned


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point, with y up."""

    eye: Point
    target: Point
    fov: float  # degrees from edge to edge of the square picture, across and down

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Unit vectors right, up and forward of the picture, each [3]."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 1.0, 0.0))
        if np.linalg.norm(right) < _POLE:  # straight up or down: the top of the picture is -z
            right = np.array([1.0, 0.0, 0.0])
        right = right / np.linalg.norm(right)
        return right, np.cross(right, forward), forward

    def project(self, points: Floats) -> Floats:
        """Where points [N, 3] are seen: [N, 3] of column and row (0 to 1 in the picture), depth.

        Rows count from the top. Depth is measured along the line of sight, in the world's units;
        where it is not positive the point lies behind the camera.
        """
        right, up, forward = self.axes()
        away = np.asarray(points, np.float64) - np.asarray(self.eye)
        depth = away @ forward
        half = depth * math.tan(math.radians(self.fov) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            column, row = 0.5 + away @ right / (2 * half), 0.5 - away @ up / (2 * half)
        return np.stack([column, row, depth], axis=1)


def cameras(law: Law, digest: str, count: int, sides: Sequence[float]) -> list[Camera]:
    """The cameras of an asset.

    Args:
        law: see above.
        digest: the asset's hash, or any other text that is its own.
        count: how many views.
        sides: lengths of the sides of the shape's box in the unit frame, [3].
    """
    half = np.asarray(sides, np.float64) / 2
    return (paper if law == "paper" else trellis)(digest, count, half)


def paper(digest: str, count: int, half: Floats) -> list[Camera]:
    """Cameras by the paper's law; `half` are half the sides of the box, [3]."""
    found = []
    for number in range(count):
        draws = uniform(f"{digest}/paper/{number}", 3)
        elevation = _between(ELEVATION, draws[0])
        azimuth = _between(AZIMUTH, draws[1])
        fov = 2 * math.degrees(math.atan(SENSOR / 2 / _between(FOCAL, draws[2])))
        back = direction(azimuth, elevation)
        found.append(_camera(back, SPARE * _closest(back, fov, half), fov))
    return found


def trellis(digest: str, count: int, half: Floats) -> list[Camera]:
    """Cameras by TRELLIS's law; `half` are half the sides of the box, [3]."""
    ball = float(np.linalg.norm(half))
    offset = uniform(f"{digest}/trellis", 2)
    near, far = (math.sin(math.radians(fov) / 2) for fov in FIELD_OF_VIEW)
    found = []
    for number in range(count):
        u = (number + offset[0]) / count
        v = radical_inverse(number) + offset[1]
        elevation = math.degrees(math.acos(1 - 2 * u)) - 90.0
        sine = math.sqrt(
            _between((near**2, far**2), uniform(f"{digest}/trellis/{number}", 1)[0])
        )  # of half the field of view: 1/radius² is uniform where sine² is
        back = direction(360.0 * v, elevation)
        found.append(_camera(back, ball / sine, 2 * math.degrees(math.asin(sine))))
    return found


def direction(azimuth: float, elevation: float) -> Floats:
    """Unit vector towards the camera, [3]; azimuth 0 is +x, 90 is +z (degrees)."""
    around, above = math.radians(azimuth), math.radians(elevation)
    return np.array(
        [
            math.cos(above) * math.cos(around),
            math.sin(above),
            math.cos(above) * math.sin(around),
        ]
    )


def radical_inverse(number: int) -> float:
    """The binary digits of a whole number mirrored behind the point: 0, 1/2, 1/4, 3/4, …"""
    inverse, digit = 0.0, 0.5
    while number:
        inverse += digit * (number & 1)
        number >>= 1
        digit /= 2
    return inverse


def uniform(key: str, count: int) -> list[float]:
    """Numbers in [0, 1) that depend on a text alone."""
    digests = (
        hashlib.sha256(f"{key}/{place}".encode("utf-8", "surrogateescape")).digest()
        for place in range(count)
    )
    return [(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests]


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _camera(back: Floats, distance: float, fov: float) -> Camera:
    x, y, z = (float(c + distance * b) for c, b in zip(CENTRE, back, strict=True))
    return Camera((x, y, z), CENTRE, fov)


def _closest(back: Floats, fov: float, half: Floats) -> float:
    """The least distance at which all corners of the box are in the picture."""
    right, up, forward = _camera(back, 1.0, fov).axes()
    signs = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3, indexing="ij"), axis=-1).reshape(8, 3)
    corners = signs * half
    across = np.maximum(np.abs(corners @ right), np.abs(corners @ up))
    return float((across / math.tan(math.radians(fov) / 2) - corners @ forward).max())

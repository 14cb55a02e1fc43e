"""Photographs of painted meshes: what a conditioning view shows.

One kernel follows every ray to the nearest surface, through cut-out holes (MASK) and panes
(BLEND, blended from front to back), and lights a matt material: a white sky and one to three lamps
with shadows, drawn per view from the asset's hash as TRELLIS does (its ranges are not known to be
better than ours). Alpha is the share of a pixel's rays that meet the shape. The same mesh, camera
and light give the same bytes on the same machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import warp
from numpy.typing import NDArray

from threed_gen.geometry.frame import CENTRE
from threed_gen.geometry.render.camera import Camera, Point, direction, uniform
from threed_gen.geometry.render.clay import corner_normals
from threed_gen.geometry.render.paint import PaintedMesh, linear_from_srgb, srgb_from_linear
from threed_gen.geometry.render.photo_kernels import BLEND, MASK, OPAQUE, photo_kernel
from threed_gen.geometry.warp_runtime import warp_device

wp: Any = warp  # its arrays and launches have no types that a checker could use

SKY = (0.45, 0.75)  # light of the sky; sky and lamps together make EXPOSURE
EXPOSURE = 1.05  # of a white surface that faces all lamps
LAMPS = 3  # at most
LAMP_DISTANCE = (2.0, 5.0)  # from the middle, in the unit frame
LAMP_TURN = 80.0  # degrees from the camera's side to either hand
LAMP_ELEVATION = (5.0, 75.0)  # degrees
_REACH = 2e-5  # step off a surface, in the unit frame
_MODES = {"OPAQUE": OPAQUE, "MASK": MASK, "BLEND": BLEND}


@dataclass(frozen=True)
class Light:
    """What a view is lit by."""

    sky: float  # white, from everywhere, a little brighter from above
    lamps: tuple[Point, ...]  # places in the unit frame
    power: tuple[float, ...]  # of each lamp; no fall-off over the small distances here


def light_of(digest: str, number: int, camera: Camera) -> Light:
    """The light of view `number` of an asset, drawn from the asset's hash."""
    draws = uniform(f"{digest}/light/{number}", 2 + 4 * LAMPS)
    sky = _between(SKY, draws[0])
    count = 1 + int(draws[1] * LAMPS)
    away = np.subtract(camera.eye, camera.target)
    facing = math.degrees(math.atan2(away[2], away[0]))
    lamps, shares = [], []
    for lamp in range(count):
        turn, height, distance, share = draws[2 + 4 * lamp : 6 + 4 * lamp]
        toward = direction(
            facing + LAMP_TURN * (2 * turn - 1), _between(LAMP_ELEVATION, height)
        ) * _between(LAMP_DISTANCE, distance)
        lamps.append((CENTRE + toward[0], CENTRE + toward[1], CENTRE + toward[2]))
        shares.append(0.2 + share)
    power = tuple((EXPOSURE - sky) * share / sum(shares) for share in shares)
    return Light(sky, tuple((float(x), float(y), float(z)) for x, y, z in lamps), power)


class Studio:
    """A painted mesh in the unit frame, ready to be photographed (its search tree is built)."""

    def __init__(self, painted: PaintedMesh, device: str | None = None) -> None:
        self.device = warp_device(device)
        self._mesh: Any = None
        if len(painted.faces) == 0:
            return
        vertices = painted.vertices - CENTRE  # near the origin float32 is finest
        self._mesh = wp.Mesh(
            self._array(vertices.astype(np.float32), wp.vec3),
            self._array(painted.faces.ravel().astype(np.int32), wp.int32),
        )
        _, merged = np.unique(vertices, axis=0, return_inverse=True)  # seams must not crease
        corners = merged.reshape(-1)[painted.faces]
        shared = np.zeros((int(corners.max()) + 1, 3))
        shared[corners] = vertices[painted.faces]
        normals = corner_normals(shared, corners)
        self._surface = [
            self._array(normals.reshape(-1, 3), wp.vec3),
            self._array(painted.uv.reshape(-1, 2), wp.vec2),
            self._array(painted.colors.reshape(-1, 4), wp.vec4),
            self._array(painted.material, wp.int32),
            self._array(np.array([m.color for m in painted.materials], np.float32), wp.vec4),
            self._array(np.array([m.texture for m in painted.materials], np.int32), wp.int32),
            self._array(
                np.array([_MODES[m.alpha_mode] for m in painted.materials], np.int32), wp.int32
            ),
            self._array(np.array([m.cutoff for m in painted.materials], np.float32), wp.float32),
            *self._pixels(painted.textures),
            self._array(linear_from_srgb(np.arange(256) / 255.0).astype(np.float32), wp.float32),
        ]

    def photograph(
        self, camera: Camera, light: Light, size: int, supersample: int = 2
    ) -> NDArray[np.uint8]:
        """One picture: uint8 [size, size, 4], sRGB with straight alpha; black where alpha is 0."""
        if self._mesh is None:
            return np.zeros((size, size, 4), np.uint8)
        out = wp.zeros(size * size, dtype=wp.vec4, device=self.device)
        lamps = np.asarray(light.lamps, np.float32).reshape(-1, 3) - np.float32(CENTRE)
        right, up, forward = (wp.vec3(*axis) for axis in camera.axes())
        eye = np.subtract(camera.eye, CENTRE)
        wp.launch(
            photo_kernel,
            dim=size * size,
            inputs=[
                self._mesh.id, *self._surface,
                self._array(lamps, wp.vec3),
                self._array(np.asarray(light.power, np.float32), wp.float32), light.sky,
                wp.vec3(*eye), right, up, forward,
                size, supersample, math.tan(math.radians(camera.fov) / 2), _REACH,
            ],
            outputs=[out],
            device=self.device,
        )  # fmt: skip
        return developed(out.numpy().reshape(size, size, 4))

    def _pixels(self, textures: tuple[NDArray[np.uint8], ...]) -> list[Any]:
        """Where each texture begins and its width and height, and the pixels of all of them."""
        places, words, start = [], [], 0
        for texture in textures:
            height, width = texture.shape[:2]
            places.append((start, width, height))
            words.append(np.ascontiguousarray(texture).view("<u4").ravel())
            start += width * height
        return [
            self._array(np.array(places or [(0, 1, 1)], np.int32), wp.vec3i),
            self._array(np.concatenate([*words, np.zeros(1, np.uint32)]), wp.uint32),
        ]

    def _array(self, values: NDArray[Any], dtype: Any) -> Any:
        return wp.array(np.ascontiguousarray(values), dtype=dtype, device=self.device)


def developed(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Linear light with premultiplied alpha [..., 4] as sRGB with straight alpha, uint8."""
    alpha = np.clip(light[..., 3:], 0.0, 1.0)
    color = np.where(alpha > 0, light[..., :3] / np.maximum(alpha, 1e-6), 0.0)
    straight = np.concatenate([srgb_from_linear(color), alpha], axis=-1)
    return np.rint(straight * 255).astype(np.uint8)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share

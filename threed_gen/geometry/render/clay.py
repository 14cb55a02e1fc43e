"""Pictures of meshes without a display: a small clay renderer on Warp's ray caster.

One kernel casts a ray per sub-pixel, shades a matt material under a key light with a shadow and a
sky (ambient occlusion by short rays), and catches the shadow on an invisible floor, so that shape,
holes and thin parts read well at 200 pixels. The same code runs on CPU and CUDA; the same mesh and
arguments give the same picture. World: y up (as in glTF), azimuth 0 looks along -z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import warp
from scipy import ndimage

from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay_kernels import shade_kernel, sky_kernel
from threed_gen.geometry.warp_runtime import warp_device

wp: Any = warp  # its arrays and launches have no types that a checker could use

Image = npt.NDArray[np.uint8]
Color = tuple[float, float, float]

CLAY: Color = (0.80, 0.70, 0.58)  # truth, in linear light
SLATE: Color = (0.45, 0.58, 0.80)  # what a model made
PAPER: Color = (0.955, 0.957, 0.965)  # background, in sRGB
FIELD_OF_VIEW = 28.0  # degrees; narrow, as a product photograph
CREASE_DEGREES = 38.0
FIT = 1.09  # camera distance, 1 = the frame touches the edge of the picture


@dataclass(frozen=True)
class Frame:
    """The ball a camera looks at. Give truth and reconstruction the same to compare them."""

    center: tuple[float, float, float]
    radius: float


def frame_of(mesh: Mesh) -> Frame:
    """The ball around the mesh's box; a unit ball for a mesh without faces."""
    points = np.asarray(mesh.vertices)[np.unique(mesh.faces)] if len(mesh.faces) else None
    if points is None or not np.isfinite(points).all():
        return Frame((0.0, 0.0, 0.0), 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    x, y, z = (float(value) for value in (low + high) / 2)
    radius = float(np.linalg.norm(points - (low + high) / 2, axis=1).max())
    return Frame((x, y, z), radius if radius > 0 else 1.0)


class Scene:
    """A mesh ready to be looked at from several sides (the search tree is built once)."""

    def __init__(self, mesh: Mesh, frame: Frame | None = None, device: str | None = None) -> None:
        self.frame = frame or frame_of(mesh)
        faces = np.asarray(mesh.faces, np.int32).reshape(-1, 3)
        center = np.asarray(self.frame.center)
        vertices = (np.asarray(mesh.vertices, np.float64) - center) / self.frame.radius
        if len(faces):  # faces with a non-finite corner cannot be drawn
            faces = faces[np.isfinite(vertices[faces]).all(axis=(1, 2))]
        self.device = "cpu"
        self._mesh: Any = None
        self.floor = -1.0
        if len(faces):
            vertices = np.nan_to_num(vertices, posinf=0.0, neginf=0.0)
            self.floor = float(vertices[faces][..., 1].min())
            self.device = warp_device(device)
            points = wp.array(vertices.astype(np.float32), dtype=wp.vec3, device=self.device)
            self._mesh = wp.Mesh(
                points, wp.array(faces.ravel(), dtype=wp.int32, device=self.device)
            )
            normals = corner_normals(vertices, faces).reshape(-1, 3)
            self._normals = wp.array(normals, dtype=wp.vec3, device=self.device)

    def sky(
        self,
        points: npt.NDArray[Any],
        normals: npt.NDArray[Any],
        rays: int = 48,
        reach: float = 0.9,
    ) -> npt.NDArray[np.float32]:
        """How much of the sky each point sees: 1 in the open, 0 deep inside; float32 [N].

        Args:
            points: in the frame's units (its ball is the unit ball), [N, 3].
            normals: unit, [N, 3].
            rays: per point.
            reach: how far a ray looks for an obstacle.
        """
        result = wp.zeros(len(points), dtype=wp.float32, device=self.device)
        if self._mesh is None or len(points) == 0:
            return np.ones(len(points), np.float32)
        places = wp.array(np.asarray(points, np.float32), dtype=wp.vec3, device=self.device)
        facing = wp.array(np.asarray(normals, np.float32), dtype=wp.vec3, device=self.device)
        wp.launch(
            sky_kernel,
            dim=len(points),
            inputs=[self._mesh.id, places, facing, rays, reach],
            outputs=[result],
            device=self.device,
        )
        return np.asarray(result.numpy(), np.float32)

    def view(
        self,
        azimuth: float = 35.0,
        elevation: float = 22.0,
        size: int = 256,
        *,
        color: Color = CLAY,
        supersample: int = 2,
        sky_rays: int = 4,
    ) -> npt.NDArray[np.float32]:
        """One picture as sRGB with straight alpha.

        Args:
            azimuth: of the camera around the frame's centre, in degrees.
            elevation: above the horizon, in degrees.
            size: pixels per side.
            color: the material, in linear light.
            supersample: rays per pixel and axis.
            sky_rays: occlusion rays per sub-pixel.

        Returns:
            float32 [size, size, 4] in [0, 1]; the floor's shadow is black with low alpha.
        """
        fine = size * supersample
        if self._mesh is None:
            return np.zeros((size, size, 4), np.float32)
        eye, right, up, forward = _camera(azimuth, elevation)
        out = wp.zeros(fine * fine, dtype=wp.vec4, device=self.device)
        floor = wp.zeros(fine * fine, dtype=wp.float32, device=self.device)
        key = _normalized(0.55 * -right + 0.95 * up - 0.65 * forward)  # over the left shoulder
        wp.launch(
            shade_kernel,
            dim=fine * fine,
            inputs=[
                self._mesh.id, self._normals, wp.vec3(*eye), wp.vec3(*right), wp.vec3(*up),
                wp.vec3(*forward), wp.vec3(*key), wp.vec3(*color), fine,
                math.tan(math.radians(FIELD_OF_VIEW / 2)), self.floor - 2e-3, sky_rays,
            ],
            outputs=[out, floor],
            device=self.device,
        )  # fmt: skip
        linear = out.numpy().reshape(size, supersample, size, supersample, 4)
        body = linear.mean(axis=(1, 3))  # premultiplied [H, W, 4]
        shadow = floor.numpy().reshape(size, supersample, size, supersample).mean(axis=(1, 3))
        return _over_shadow(body, shadow)


def render(
    mesh: Mesh,
    azimuth: float = 35.0,
    elevation: float = 22.0,
    size: int = 256,
    *,
    frame: Frame | None = None,
    color: Color = CLAY,
    background: Color = PAPER,
    device: str | None = None,
) -> Image:
    """A clay picture of `mesh`: uint8 [size, size, 3]. See `Scene.view` for the arguments."""
    return on_paper(
        Scene(mesh, frame, device).view(azimuth, elevation, size, color=color), background
    )


def turntable(
    mesh: Mesh, count: int = 8, elevation: float = 22.0, size: int = 192, color: Color = CLAY
) -> list[Image]:
    """`count` pictures from all around, evenly spaced: each uint8 [size, size, 3]."""
    scene = Scene(mesh)
    steps = [35.0 + 360.0 * k / count for k in range(count)]
    return [on_paper(scene.view(angle, elevation, size, color=color)) for angle in steps]


def on_paper(picture: npt.NDArray[np.float32], background: Color = PAPER) -> Image:
    """A picture with alpha [H, W, 4] laid on a plain background: uint8 [H, W, 3]."""
    alpha = picture[..., 3:]
    flat = picture[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
    return np.clip(np.rint(flat * 255), 0, 255).astype(np.uint8)


def corner_normals(
    vertices: npt.NDArray[Any], faces: npt.NDArray[Any], crease_degrees: float = CREASE_DEGREES
) -> npt.NDArray[np.float32]:
    """Normals per face corner, smooth except across edges sharper than the crease angle.

    Each corner averages, weighted by area, the normals of those faces at its vertex that lie
    within the crease angle of its own face.

    Returns:
        Unit vectors, float32 [F, 3, 3] (face, corner, axis).
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    weighted = np.cross(b - a, c - a)  # [F, 3] length = 2 · area
    unit = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-30)
    order = np.argsort(faces.ravel(), kind="stable")  # corners grouped by vertex
    counts = np.bincount(faces.ravel(), minlength=len(vertices))
    start = np.concatenate([[0], np.cumsum(counts)])[faces.ravel()[order]]
    total = np.zeros((faces.size, 3))
    here = order // 3  # the face of each corner, in grouped order
    around = counts[faces.ravel()[order]]
    live = np.arange(len(order))
    for turn in range(int(counts.max(initial=0))):  # the turn-th face around each vertex
        live = live[turn < around[live]]
        other = order[start[live] + turn] // 3
        near = np.einsum("nc,nc->n", unit[here[live]], unit[other]) > math.cos(
            math.radians(crease_degrees)
        )
        total[order[live[near]]] += weighted[other[near]]
    length = np.linalg.norm(total, axis=1, keepdims=True)
    own = np.repeat(unit, 3, axis=0)
    smooth = np.where(length > 0, total / np.maximum(length, 1e-30), own)
    return smooth.reshape(-1, 3, 3).astype(np.float32)


def _over_shadow(body: npt.NDArray[Any], shadow: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Body [H, W, 4] (linear, premultiplied) over the floor's shadow [H, W], in sRGB.

    The shadow is noisy where few rays were cast, and nothing in it is sharp: it is blurred, with
    the pixels of the body left out so that it does not pale along the outline.
    """
    cover = body[..., 3]
    free = 1.0 - cover
    rows = np.linspace(0, 1, len(body))
    edge = np.clip(np.minimum(1 - rows[:, None], np.minimum(rows, 1 - rows)) / 0.16, 0, 1)
    shadow = shadow * (edge * edge * (3 - 2 * edge))  # fades out before the picture ends
    sigma = len(body) / 60
    spread = ndimage.gaussian_filter(free, sigma)
    soft = ndimage.gaussian_filter(shadow, sigma) / np.maximum(spread, 1e-3)
    alpha = cover + free * np.clip(soft, 0.0, 1.0)
    color = _to_srgb(body[..., :3] / np.maximum(cover, 1e-6)[..., None])
    straight = color * (cover / np.maximum(alpha, 1e-6))[..., None]
    return np.concatenate([straight, alpha[..., None]], axis=-1).astype(np.float32)


def _normalized(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return vector / np.linalg.norm(vector)


def _camera(azimuth: float, elevation: float) -> tuple[npt.NDArray[Any], ...]:
    """Eye, right, up and forward of a camera that has the unit ball in view."""
    around, above = math.radians(azimuth), math.radians(elevation)
    back = np.array(
        [
            math.cos(above) * math.sin(around),
            math.sin(above),
            math.cos(above) * math.cos(around),
        ]
    )
    right = np.array([math.cos(around), 0.0, -math.sin(around)])
    distance = FIT / math.sin(math.radians(FIELD_OF_VIEW / 2))
    return back * distance, right, np.cross(back, right), -back


def _to_srgb(linear: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low = np.clip(linear, 0.0, 1.0)
    return np.where(low <= 0.0031308, 12.92 * low, 1.055 * low ** (1 / 2.4) - 0.055)

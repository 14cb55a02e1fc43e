"""Meshes packed small enough to live inside an HTML page, and their still pictures.

Positions are 16-bit steps in the frame that truth and reconstruction share, corners are written
as differences, and the whole is deflated: about 5 bytes per face. viewer.js reads it back (the
layout is described at `pack`). Meshes too large for a browser are shown coarser, and say so.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay import Color, Frame, Scene, corner_normals

MOST_FACES = 150_000  # of one mesh on the page
REACH = 1.25  # positions are kept within ± this many radii of the frame
# Three directions at right angles, far from all axes and diagonals.
ASKEW = np.linalg.qr(np.array([[3.0, 1.0, 5.0], [7.0, 2.0, 1.0], [1.0, 8.0, 3.0]]))[0]
FLOOR_SIZE = 48  # pixels of the floor's shadow
ERROR_SPAN = 2.0  # voxels at which the error colour ends


@dataclass(frozen=True)
class PackedMesh:
    """A mesh as the page carries it."""

    data: str  # base64 of the deflated bytes
    vertices: int
    faces: int
    has_shade: bool
    has_error: bool

    def as_json(self) -> dict[str, Any]:
        """What viewer.js wants."""
        return {
            "data": self.data,
            "vertices": self.vertices,
            "faces": self.faces,
            "shade": self.has_shade,
            "error": self.has_error,
        }


def pack(
    mesh: Mesh,
    frame: Frame,
    shade: npt.NDArray[Any] | None = None,
    error: npt.NDArray[Any] | None = None,
) -> PackedMesh:
    """Pack a mesh (already at most MOST_FACES) for the page.

    Byte layout before deflating, V vertices and F faces, all little-endian and split into byte
    planes (all lowest bytes first), which deflates far better:

    - x, y, z: uint16 [V] each, difference to the vertex before, modulo 2^16;
      value / 65535 * 2 * REACH - REACH in units of the frame's radius around its centre
    - shade, only if given: uint8 [V], 255 = sees the whole sky
    - error, only if given: uint8 [V], 255 = ERROR_SPAN voxels
    - corners: int32 [F] each: first corner (the face's smallest) as difference to that of the
      face before; second and third as difference to the first, modulo 2^32

    Args:
        mesh: what to pack.
        frame: shared by truth and reconstruction; positions are relative to it.
        shade: share of the sky that each vertex sees, [V] in [0, 1].
        error: distance to the true surface per vertex in voxels, [V].
    """
    unit = (mesh.vertices - np.asarray(frame.center)) / frame.radius
    steps = np.rint((np.clip(unit, -REACH, REACH) + REACH) / (2 * REACH) * 65535)
    positions = steps.astype(np.uint16)  # [V, 3]
    faces = _canonical(np.asarray(mesh.faces, np.int64))
    parts = [_planes(_differences(positions[:, axis])) for axis in range(3)]
    if shade is not None:
        parts.append(_byte(shade).tobytes())
    if error is not None:
        parts.append(_byte(error / ERROR_SPAN).tobytes())
    first = faces[:, 0].astype(np.uint32)
    parts.append(_planes(_differences(first)))
    parts += [_planes(faces[:, k].astype(np.uint32) - first) for k in (1, 2)]
    data = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode("ascii")
    return PackedMesh(data, len(mesh.vertices), len(faces), shade is not None, error is not None)


def coarser(mesh: Mesh, most_faces: int = MOST_FACES) -> Mesh:
    """`mesh` itself, or vertices joined on a grid just coarse enough for `most_faces`.

    Only vertices that face the same way are joined: the two sides of a thin wall stay apart.
    """
    if len(mesh.faces) <= most_faces:
        return mesh
    facing = _facing(mesh)
    low, high = mesh.bounds
    side = float((high - low).max())
    ends = mesh.vertices[mesh.faces[:, :2]]  # [F, 2, 3]
    edge = max(float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).mean()), side / 1024)
    fewer = len(mesh.faces) / most_faces
    cells = side / edge
    while True:
        cells *= min(0.95, fewer**-0.5)  # faces are on a surface: they go with the square
        cell = np.floor((mesh.vertices - low) / side * cells).astype(np.int64)
        key = (cell[:, 0] * 2048 + cell[:, 1]) * 2048 + cell[:, 2]  # one number sorts faster
        key = key * 8 + facing
        _, number = np.unique(key, return_inverse=True)
        number = number.ravel()
        faces = number[mesh.faces]
        a, b, c = faces.T
        faces = _canonical(faces[(a != b) & (b != c) & (c != a)])
        twice = np.zeros(len(faces), bool)
        twice[1:] = (faces[1:] == faces[:-1]).all(axis=1)  # they are in ascending order
        faces = faces[~twice]
        fewer = len(faces) / most_faces
        if fewer <= 1:
            break
    count = np.bincount(number)
    mean = np.stack([np.bincount(number, mesh.vertices[:, k]) / count for k in range(3)], axis=1)
    return Mesh(mean, faces)


def _facing(mesh: Mesh) -> npt.NDArray[np.int64]:
    """A number from 0 to 7 for the way that each vertex faces, [V]; opposite ways always differ.

    The eight sectors lie askew, so that walls along the axes and diagonals fall within one.
    """
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)  # [F, 3]
    total = np.stack(
        [
            np.bincount(mesh.faces.ravel(), np.repeat(normals[:, k], 3), len(mesh.vertices))
            for k in range(3)
        ],
        axis=1,
    )  # [V, 3]
    side = (total @ ASKEW.T > 0).astype(np.int64)
    return side @ np.array([4, 2, 1])


def viewable(
    mesh: Mesh, frame: Frame, color: Color, error: npt.NDArray[Any] | None = None
) -> tuple[dict[str, Any], str]:
    """A mesh (at most MOST_FACES) for the viewer: its data, and the still picture before it."""
    scene = Scene(mesh, frame)
    packed = pack(mesh, frame, vertex_shade(scene, mesh), error)
    return {**packed.as_json(), "floor": floor_shadow(scene)}, poster(scene, color)


def poster(scene: Scene, color: Color, size: int = 256) -> str:
    """A still picture of a mesh as the viewer first shows it, as a data URL."""
    rgba = np.rint(scene.view(size=size, color=color) * 255).astype(np.uint8)
    return data_url(Image.fromarray(rgba), "WEBP", quality=88, method=3)


def vertex_shade(scene: Scene, mesh: Mesh) -> npt.NDArray[np.float32]:
    """Share of the sky that each vertex sees, [V]: gives the viewer soft shadows for nothing."""
    unit = (mesh.vertices - np.asarray(scene.frame.center)) / scene.frame.radius
    corners = corner_normals(unit, mesh.faces, crease_degrees=180.0).reshape(-1, 3)
    normals = np.zeros((len(mesh.vertices), 3), np.float32)
    normals[mesh.faces.ravel()] = corners  # smooth: all corners of a vertex agree
    return scene.sky(unit, normals, rays=24)


def floor_shadow(scene: Scene) -> dict[str, Any]:
    """The shadow on the floor under a mesh, as a small picture for the viewer.

    Returns:
        size: pixels per side; data: base64 of uint8 [size, size] (255 = black), rows along z;
        half: the picture spans ± half on x and z; y: height of the floor. In frame units.
    """
    half = 2.0
    line = (np.arange(FLOOR_SIZE) + 0.5) / FLOOR_SIZE * 2 * half - half
    z, x = np.meshgrid(line, line, indexing="ij")
    points = np.stack([x, np.full_like(x, scene.floor), z], axis=-1).reshape(-1, 3)
    up = np.tile(np.array([0.0, 1.0, 0.0]), (len(points), 1))
    dark = 1.0 - scene.sky(points, up, rays=32, reach=1.2).reshape(FLOOR_SIZE, FLOOR_SIZE)
    dark = ndimage.gaussian_filter(dark, 1.2) * np.clip(half - np.hypot(x, z), 0, 1)
    coded = base64.b64encode(_byte(dark).tobytes()).decode("ascii")
    return {"size": FLOOR_SIZE, "half": half, "y": round(scene.floor, 5), "data": coded}


def data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as `data:image/...;base64,...`."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    coded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{coded}"


def _byte(share: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """[0, 1] → 0 … 255, clipped."""
    return np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)


def _canonical(faces: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same faces, each turned to begin with its smallest corner, in ascending order."""
    if len(faces) == 0:
        return faces.reshape(0, 3)
    turn = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(faces, turn, axis=1)
    return turned[np.lexsort(turned.T[::-1])]


def _differences(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.diff(values, prepend=values.dtype.type(0))  # unsigned: wraps around


def _planes(values: npt.NDArray[Any]) -> bytes:
    width = values.dtype.itemsize
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(-1, width).T.tobytes()

"""Packing meshes for the page, read back here in plain NumPy as viewer.js does in JavaScript."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.mesh import Mesh, is_watertight
from threed_gen.geometry.render.clay import Scene, frame_of
from threed_gen.report.meshes import (
    ERROR_SPAN,
    FLOOR_SIZE,
    REACH,
    PackedMesh,
    coarser,
    floor_shadow,
    pack,
    vertex_shade,
)

BALL = trimesh.creation.icosphere(subdivisions=4)
MESH = Mesh(np.asarray(BALL.vertices) * 3 + [1, 2, 3], np.asarray(BALL.faces))


def unpack(packed: PackedMesh) -> dict[str, np.ndarray]:
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed.data)), np.uint8)
    at = 0

    def planes(count: int, width: int) -> np.ndarray:
        nonlocal at
        part = raw[at : at + count * width].reshape(width, count).astype(np.uint32)
        at += count * width
        return sum(part[k] << np.uint32(8 * k) for k in range(width))

    n, f = packed.vertices, packed.faces
    axes = [np.cumsum(planes(n, 2), dtype=np.uint16) for _ in range(3)]
    result = {"positions": np.stack(axes, 1) / 65535 * 2 * REACH - REACH}
    for name, there in (("shade", packed.has_shade), ("error", packed.has_error)):
        if there:
            result[name] = planes(n, 1) / 255
    first = np.cumsum(planes(f, 4), dtype=np.uint32)
    second, third = (first + planes(f, 4) for _ in range(2))
    result["faces"] = np.stack([first, second, third], 1).astype(np.int64)
    assert at == len(raw)
    return result


def as_set(faces: np.ndarray) -> set[tuple[int, ...]]:
    """Faces with their orientation, whichever corner comes first."""
    return {tuple(np.roll(face, -int(face.argmin()))) for face in faces}


def test_what_is_packed_comes_back() -> None:
    frame = frame_of(MESH)
    random = np.random.default_rng(0)
    shade, error = random.random(len(MESH.vertices)), 3 * random.random(len(MESH.vertices))
    packed = pack(MESH, frame, shade, error)
    back = unpack(packed)
    unit = (MESH.vertices - np.array(frame.center)) / frame.radius
    assert np.abs(back["positions"] - unit).max() <= REACH / 65535 * 1.001
    assert np.abs(back["shade"] - shade).max() <= 0.5 / 255 + 1e-9
    assert np.abs(back["error"] - np.minimum(error / ERROR_SPAN, 1)).max() <= 0.5 / 255 + 1e-9
    assert as_set(back["faces"]) == as_set(MESH.faces)
    assert len(packed.data) < 8 * len(MESH.faces)  # raw floats and indices: 18 bytes a face


def test_empty_mesh_packs() -> None:
    packed = pack(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), frame_of(MESH))
    assert unpack(packed)["faces"].shape == (0, 3)


def test_coarser_keeps_small_meshes_and_the_shape_of_large_ones() -> None:
    assert coarser(MESH, 10_000) is MESH
    small = coarser(MESH, 1500)
    assert 500 < len(small.faces) <= 1500
    radius = np.linalg.norm(small.vertices - [1, 2, 3], axis=1)
    assert np.abs(radius / 3 - 1).max() < 0.05
    assert is_watertight(small)


def test_coarser_keeps_the_sides_of_a_thin_wall_apart() -> None:
    inner = Mesh(0.99 * MESH.vertices + 0.01 * np.array([1, 2, 3]), MESH.faces[:, ::-1])
    wall = Mesh(
        np.concatenate([MESH.vertices, inner.vertices]),
        np.concatenate([MESH.faces, inner.faces + len(MESH.vertices)]),
    )
    small = coarser(wall, 3000)
    assert is_watertight(small)
    edges = small.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    ones = np.ones(len(edges))
    graph = coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=[len(small.vertices)] * 2)
    count, _ = connected_components(graph, directed=False)
    assert count == 2


def test_baked_light() -> None:
    scene = Scene(MESH)
    assert vertex_shade(scene, MESH).min() > 0.99  # a ball never hides from itself
    plate = trimesh.creation.box((2.0, 0.1, 2.0)).subdivide().subdivide().subdivide()
    slit = trimesh.util.concatenate([plate, plate.copy().apply_translation([0, 0.2, 0])])
    narrow = Mesh(np.asarray(slit.vertices), np.asarray(slit.faces))
    assert vertex_shade(Scene(narrow), narrow).min() < 0.3  # in the middle of the gap
    floor = floor_shadow(scene)
    dark = np.frombuffer(base64.b64decode(floor["data"]), np.uint8).reshape(FLOOR_SIZE, FLOOR_SIZE)
    middle = FLOOR_SIZE // 2
    assert dark[middle, middle] > 150
    assert dark[0].max() == 0
    assert floor["y"] == -1.0

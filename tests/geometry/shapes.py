"""Meshes of shapes whose distance is known in closed form, and fields for extraction tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import (
    SparseSDF,
    brick_keys,
    raster_index,
    voxel_centres,
)

MESHES = Path(__file__).resolve().parents[2].parent / "shared" / "meshes"
Distance = Callable[[np.ndarray], np.ndarray]


def box(low: tuple[float, ...] = (0, 0, 0), high: tuple[float, ...] = (1, 1, 1)) -> Mesh:
    """Twelve triangles, outward."""
    low_, high_ = np.array(low, float), np.array(high, float)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(low_ + corners * (high_ - low_), np.array(faces))


def icosphere(radius: float, subdivisions: int, centre: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(ball.vertices) + np.array(centre), np.asarray(ball.faces))


def torus(major: float, minor: float, around: int, tube: int) -> Mesh:
    """Around the z axis. Vertices lie as far outside as the middles of facets lie inside."""
    u = np.arange(around) * 2 * np.pi / around
    v = np.arange(tube) * 2 * np.pi / tube
    minor = minor * 2 / (1 + np.cos(np.pi / tube))
    ring = major + minor * np.cos(v)[None, :]
    ring = ring * 2 / (1 + np.cos(np.pi / around))
    vertices = np.stack(
        [
            ring * np.cos(u)[:, None],
            ring * np.sin(u)[:, None],
            np.broadcast_to(minor * np.sin(v), (around, tube)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(around), np.arange(tube), indexing="ij")
    a, b = i * tube + j, (i + 1) % around * tube + j
    c, d = (i + 1) % around * tube + (j + 1) % tube, i * tube + (j + 1) % tube
    faces = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    )
    return Mesh(vertices, faces)


def join(*meshes: Mesh) -> Mesh:
    counts = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + n for m, n in zip(meshes, counts, strict=False)]),
    )


def inverted(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces[:, ::-1])


def flipped(mesh: Mesh, share: float, seed: int = 0) -> Mesh:
    """Turn a share of the faces round."""
    faces = mesh.faces.copy()
    turn = np.random.default_rng(seed).random(len(faces)) < share
    faces[turn] = faces[turn][:, ::-1]
    return Mesh(mesh.vertices, faces)


def sphere_distance(p: np.ndarray, radius: float, centre: object = 0.0) -> np.ndarray:
    return np.linalg.norm(p - np.asarray(centre, float), axis=-1) - radius


def torus_distance(p: np.ndarray, major: float, minor: float) -> np.ndarray:
    ring = np.hypot(p[..., 0], p[..., 1]) - major
    return np.hypot(ring, p[..., 2]) - minor


def box_distance(p: np.ndarray, low: object, high: object) -> np.ndarray:
    low, high = np.asarray(low, float), np.asarray(high, float)
    q = np.abs(p - (low + high) / 2) - (high - low) / 2
    outside = np.linalg.norm(np.maximum(q, 0), axis=-1)
    return outside + np.minimum(q.max(axis=-1), 0)


def mesh_positions(sdf: SparseSDF) -> np.ndarray:
    """Voxel centres of all stored voxels in the frame of the mesh, [B, 512, 3]."""
    unit = voxel_centres(sdf.voxel_coords(), sdf.resolution)
    return unit * sdf.scale + np.array(sdf.offset)


def field_of(distance: Distance, resolution: int, tau: float) -> SparseSDF:
    """The field of a distance function over the unit cube, made densely: for small grids."""
    axis = np.arange(resolution)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    return field_from_dense(distance(voxel_centres(grid, resolution)) / tau, tau)


def field_from_dense(values: np.ndarray, tau: float) -> SparseSDF:
    """Bricks with a voxel |s| < 1 of a dense array of values [R, R, R]."""
    r = len(values)
    axis = np.arange(r)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    n = r // 8
    s = np.empty((n**3, 512), np.float32)
    s[brick_keys(grid // 8, r), raster_index(grid)] = np.clip(values, -1, 1).reshape(-1)
    bricks = np.stack(np.unravel_index(np.arange(n**3), (n, n, n)), -1).astype(np.int32)
    keep = (np.abs(s) < 1).any(axis=1)
    band = np.abs(s[keep]) < 1
    return SparseSDF(bricks[keep], s[keep], band, np.zeros_like(band), r, tau, 1.0, (0.0, 0.0, 0.0))


def sparse_field(bricks: np.ndarray, s: np.ndarray, resolution: int) -> SparseSDF:
    """A field from given bricks and values, for tests of extraction."""
    order = np.argsort(brick_keys(bricks, resolution))
    s = s[order].astype(np.float32)
    band = np.abs(s) < 1
    return SparseSDF(
        bricks[order].astype(np.int32),
        s,
        band,
        np.zeros_like(band),
        resolution,
        4 / resolution,
        1.0,
        (0.0, 0.0, 0.0),
    )

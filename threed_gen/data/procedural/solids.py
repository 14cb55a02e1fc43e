"""The few ways in which every procedural shape is built: lofts, revolutions, boxes, handles.

Each returns one closed surface whose faces look outwards, without a face inside the solid: parts
are joined along shared vertices and never merely pushed into each other, because a face inside
the solid would put a crease into its distance field. z is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.mesh import Mesh, merge_by_position, signed_volume

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Box = tuple[float, float, float, float, float, float]  # x0, x1, y0, y1, z0, z1


def outwards(vertices: Floats, faces: Ints) -> Mesh:
    """The mesh with its faces looking outwards (all of them must already agree)."""
    mesh = merge_by_position(Mesh(vertices, faces))
    return mesh if signed_volume(mesh) > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])


def quads(a: Ints, b: Ints, c: Ints, d: Ints) -> Ints:
    """Two triangles for each four-cornered face a, b, c, d, int64 [2Q, 3]."""
    corners = np.stack([a.ravel(), b.ravel(), c.ravel(), d.ravel()], axis=1)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


def strip(first: Ints, second: Ints) -> Ints:
    """The band of triangles between two rings of vertex numbers, each [n]."""
    return quads(first, np.roll(first, -1), np.roll(second, -1), second)


def loft(rings: Floats, closed: bool = False) -> Mesh:
    """A skin over rings [K, n, 3]; its ends are capped, or joined to each other if `closed`.

    A cap is a fan around the middle of its ring, so the ring must be star-shaped from there.
    """
    count, size, _ = rings.shape
    numbers = np.arange(count * size).reshape(count, size)
    pairs = [(k, (k + 1) % count) for k in range(count if closed else count - 1)]
    faces = [strip(numbers[i], numbers[j]) for i, j in pairs]
    vertices = rings.reshape(-1, 3)
    if not closed:
        middles = rings[[0, -1]].mean(axis=1)
        for ring, middle, turn in ((numbers[0], 0, -1), (numbers[-1], 1, 1)):
            edge = np.stack([ring, np.roll(ring, -1)], axis=1)[:, ::turn]
            centre = np.full((size, 1), len(vertices) + middle)
            faces.append(np.concatenate([edge, centre], axis=1))
        vertices = np.concatenate([vertices, middles])
    return outwards(vertices, np.concatenate(faces))


def circle(segments: int) -> Floats:
    """Unit circle in the plane, float64 [segments, 2], counter-clockwise."""
    angle = np.arange(segments) * (2 * np.pi / segments)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def revolve(profile: Sequence[tuple[float, float]] | Floats, segments: int = 48) -> Mesh:
    """Turn a profile of (radius, z) around the z axis; it starts and ends on the axis."""
    points = np.asarray(profile, dtype=np.float64)  # [K, 2]
    ring = circle(segments)
    rings = np.stack([level(ring * max(radius, 0.0), z) for radius, z in points])
    return loft(rings)


def level(outline: Floats, z: float) -> Floats:
    """A plane outline [n, 2] at height z, as [n, 3]."""
    return np.concatenate([outline, np.full((len(outline), 1), z)], axis=1)


def sweep(path: Floats, sections: Floats, closed: bool = False) -> Floats:
    """Rings [K, n, 3]: section k [n, 2] of `sections` [K, n, 2] standing across `path` [K, 3].

    The frame is carried along the path without twisting; on a closed path the twist that is left
    at the end is spread over its whole length.
    """
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    tangent = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    start = np.eye(3)[np.argmin(np.abs(tangent[0]))]
    normals = [_across(start, tangent[0])]
    for direction in tangent[1:]:
        normals.append(_across(normals[-1], direction))
    u = np.stack(normals)
    v = np.cross(tangent, u)
    if closed:
        back = _across(normals[-1], tangent[0])
        twist = np.arctan2(np.dot(back, v[0]), np.dot(back, u[0]))
        angle = (-twist * np.arange(len(path)) / len(path))[:, None]
        u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return (
        path[:, None]
        + sections[..., 0, None] * u[:, None, :]
        + sections[..., 1, None] * v[:, None, :]
    )


def boxes(
    solid: Sequence[Box],
    holes: Sequence[Box] = (),
    warp: Callable[[Floats], Floats] | None = None,
) -> Mesh:
    """The union of axis-parallel boxes less the union of others, as one surface.

    All boxes share one lattice of planes, so nothing overlaps and no edge meets a face half-way.
    `warp` moves the lattice points [V, 3] afterwards (for roofs, tapered legs, …).
    """
    every = np.asarray([*solid, *holes], dtype=np.float64)  # [N, 6]
    lines = [np.unique(every[:, 2 * axis : 2 * axis + 2]) for axis in range(3)]
    middles = [(line[1:] + line[:-1]) / 2 for line in lines]
    x, y, z = np.meshgrid(*middles, indexing="ij")
    filled = np.zeros(x.shape, dtype=bool)
    for parts, value in ((solid, True), (holes, False)):
        for x0, x1, y0, y1, z0, z1 in parts:
            covered = (x > x0) & (x < x1) & (y > y0) & (y < y1) & (z > z0) & (z < z1)
            filled[covered] = value
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)  # [X, Y, Z, 3]
    numbers = np.arange(points[..., 0].size).reshape(points.shape[:3])
    padded = np.pad(filled, 1)
    faces = []
    for axis in range(3):
        turned = np.moveaxis(padded, axis, 0)[:, 1:-1, 1:-1]
        plane = np.moveaxis(numbers, axis, 0)  # lattice points, first index along `axis`
        corners = (plane[:, :-1, :-1], plane[:, 1:, :-1], plane[:, 1:, 1:], plane[:, :-1, 1:])
        # moveaxis to the front mirrors the other two axes when `axis` is y
        order = (0, 1, 2, 3) if axis != 1 else (3, 2, 1, 0)
        up, down = turned[:-1] & ~turned[1:], ~turned[:-1] & turned[1:]
        a, b, c, d = (corners[k] for k in order)
        faces += [quads(a[up], b[up], c[up], d[up]), quads(d[down], c[down], b[down], a[down])]
    vertices = points.reshape(-1, 3)
    return outwards(vertices if warp is None else warp(vertices), np.concatenate(faces))


def bridge(
    vertices: Floats, faces: Ints, start: Ints, end: Ints, rings: Floats
) -> tuple[Floats, Ints]:
    """Cut two patches out of a surface and join their rims by a tube.

    `start` and `end` are square patches of vertex numbers [m, m] in matching order (a point of the
    one is carried to the same place of the other); `rings` [K, 4(m-1), 3] are the rings between.
    """
    loops = [
        np.concatenate([p[0, :-1], p[:-1, -1], p[-1, :0:-1], p[:0:-1, 0]]) for p in (start, end)
    ]
    patch = [np.isin(faces, p).all(axis=1) for p in (start, end)]
    removed = faces[patch[0]]
    count, size, _ = rings.shape
    between = np.arange(count * size).reshape(count, size) + len(vertices)
    chain = [loops[0], *between, loops[1]]
    tube = np.concatenate([strip(a, b) for a, b in zip(chain[:-1], chain[1:], strict=True)])
    halves = {(a, b) for f in removed.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    if (int(loops[0][0]), int(loops[0][1])) not in halves:
        tube = tube[:, ::-1]
    kept = faces[~(patch[0] | patch[1])]
    return np.concatenate([vertices, rings.reshape(-1, 3)]), np.concatenate([kept, tube])


def _across(vector: Floats, direction: Floats) -> Floats:
    """The unit vector nearest to `vector` that stands across `direction`."""
    flat = vector - np.dot(vector, direction) * direction
    unit: Floats = flat / np.linalg.norm(flat)
    return unit

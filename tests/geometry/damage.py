"""What goes wrong with meshes in the wild, done on purpose to two closed ones.

Every damage takes a closed mesh and a seed and returns the damaged mesh with the undamaged parts
it was made of: a point is truly inside when it is inside any of them. Sizes are shares of the
mesh's longest side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.geometry.shapes import flipped, inverted, join
from threed_gen.data.procedural.solids import circle, level, loft, sweep
from threed_gen.geometry.mesh import Mesh, face_normals, face_vectors

Damaged = tuple[Mesh, list[Mesh]]
Damage = Callable[[Mesh, int], Damaged]

HOLE_RADIUS = 0.12 / 1.9
GAP = 0.0006  # between neighbours of a soup: a seventh of a voxel at 256
WALL = 0.012  # from the skin to the wall inside it: three voxels at 256


def knot(around: int = 400, across: int = 60) -> Mesh:
    """A smooth closed surface: a trefoil knot in a tube with bumps."""
    t = np.arange(around) * (2 * np.pi / around)
    path = np.stack(
        [
            0.17 * (np.sin(t) + 2 * np.sin(2 * t)),
            0.17 * (np.cos(t) - 2 * np.cos(2 * t)),
            -0.22 * np.sin(3 * t),
        ],
        axis=1,
    )
    angle = np.arange(across) * (2 * np.pi / across)
    thick = 0.09 * (1 + 0.12 * np.sin(19 * t)[:, None] * np.cos(3 * angle)[None])
    sections = circle(across)[None] * thick[..., None]
    return loft(sweep(path, sections, closed=True), closed=True)


def flange(segments: int = 420) -> Mesh:
    """A machined part: a toothed plate with a bored hub, of triangles up to 100 times as long as wide."""  # noqa: E501
    ring = circle(segments)
    teeth = np.arange(segments) // (segments // 14) % 2
    outer = ring * (0.5 - 0.05 * teeth)[:, None]
    hub, bore = ring * 0.22, ring * 0.13
    return loft(
        np.stack(
            [
                level(outer, 0), level(outer, 0.11), level(hub, 0.11), level(hub, 0.45),
                level(bore, 0.45), level(bore, 0),
            ]
        ),
        closed=True,
    )  # fmt: skip


def longest_side(mesh: Mesh) -> float:
    low, high = mesh.bounds
    return float((high - low).max())


def whole(mesh: Mesh, seed: int) -> Damaged:
    return mesh, [mesh]


def turned_inside_out(mesh: Mesh, seed: int) -> Damaged:
    return inverted(mesh), [mesh]


def faces_missing(mesh: Mesh, seed: int, share: float = 0.02) -> Damaged:
    kept = np.random.default_rng(seed).permutation(len(mesh.faces))[int(share * len(mesh.faces)) :]
    return Mesh(mesh.vertices, mesh.faces[np.sort(kept)]), [mesh]


def soup(mesh: Mesh, seed: int) -> Damaged:
    """No two triangles share a vertex, and every side has moved inwards by half a gap."""
    corners = mesh.triangles
    sides = np.linalg.norm(np.roll(corners, -1, axis=1) - np.roll(corners, 1, axis=1), axis=2)
    around = sides.sum(axis=1, keepdims=True)
    centre = (sides[..., None] * corners).sum(axis=1) / around  # of the circle inside
    radius = np.linalg.norm(face_vectors(mesh), axis=1) / around[:, 0]
    shrunk = np.maximum(1 - 0.5 * GAP * longest_side(mesh) / radius, 0.95)
    corners = centre[:, None] + (corners - centre[:, None]) * shrunk[:, None, None]
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3)), [mesh]


def big_hole(mesh: Mesh, seed: int) -> Damaged:
    """Faces whose middle lies in a ball around the middle of one face."""
    middles = mesh.triangles.mean(axis=1)
    centre = middles[np.random.default_rng(seed).integers(len(middles))]
    far = np.linalg.norm(middles - centre, axis=1) > HOLE_RADIUS * longest_side(mesh)
    return Mesh(mesh.vertices, mesh.faces[far]), [mesh]


def faces_flipped(mesh: Mesh, seed: int, share: float = 0.3) -> Damaged:
    return flipped(mesh, share, seed), [mesh]


def double_sided(mesh: Mesh, seed: int) -> Damaged:
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:, ::-1]])), [mesh]


def inner_wall(mesh: Mesh, seed: int) -> Damaged:
    """A second skin a little inside the first, looking inwards, as if the solid were hollow."""
    normals = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], face_normals(mesh))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    wall = Mesh(mesh.vertices - WALL * longest_side(mesh) * normals, mesh.faces[:, ::-1])
    return join(mesh, wall), [mesh]


def overlapping(mesh: Mesh, seed: int) -> Damaged:
    other = _moved(mesh, seed)
    return join(mesh, other), [mesh, other]


def overlapping_one_inverted(mesh: Mesh, seed: int) -> Damaged:
    other = _moved(mesh, seed)
    return join(mesh, inverted(other)), [mesh, other]


def hole_and_flips(mesh: Mesh, seed: int) -> Damaged:
    return _then(big_hole, faces_flipped, mesh, seed)


def hole_and_double_sided(mesh: Mesh, seed: int) -> Damaged:
    return _then(big_hole, double_sided, mesh, seed)


def missing_and_flips(mesh: Mesh, seed: int) -> Damaged:
    return _then(faces_missing, faces_flipped, mesh, seed)


def soup_and_flips(mesh: Mesh, seed: int) -> Damaged:
    return _then(soup, faces_flipped, mesh, seed)


KINDS: dict[str, Damage] = {
    "whole mesh inverted": turned_inside_out,
    "2 % faces missing": faces_missing,
    "soup with gaps": soup,
    "one big hole": big_hole,
    "30 % faces flipped": faces_flipped,
    "double-sided": double_sided,
    "inner inverted wall": inner_wall,
    "overlapping parts": overlapping,
    "overlapping, one inverted": overlapping_one_inverted,
}
COMBINATIONS: dict[str, Damage] = {
    "big hole, 30 % flipped": hole_and_flips,
    "big hole, double-sided": hole_and_double_sided,
    "2 % missing, 30 % flipped": missing_and_flips,
    "soup with gaps, 30 % flipped": soup_and_flips,
}


def winding_number(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """Sum of the solid angles of all faces over 4 pi, in float64 (Van Oosterom, Strackee 1983)."""
    result = np.empty(len(points))
    step = max(1, 4_000_000 // max(1, len(mesh.faces)))
    for start in range(0, len(points), step):
        a, b, c = np.moveaxis(
            mesh.triangles[None] - points[start : start + step, None, None], 2, 0
        )  # [n, F, 3] each
        la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
        below = la * lb * lc
        for x, y, z in ((a, b, lc), (b, c, la), (c, a, lb)):
            below += np.einsum("nfi,nfi->nf", x, y) * z
        above = np.einsum("nfi,nfi->nf", a, np.cross(b, c))
        result[start : start + step] = np.arctan2(above, below).sum(axis=1) / (2 * np.pi)
    return result


def inside_any(parts: list[Mesh], points: np.ndarray) -> np.ndarray:
    """The truth: inside at least one of the undamaged parts (each wound outwards)."""
    import igl

    found = [igl.winding_number(p.vertices, p.faces, points) > 0.5 for p in parts]
    return np.any(found, axis=0)


def _then(first: Damage, second: Damage, mesh: Mesh, seed: int) -> Damaged:
    damaged, parts = first(mesh, seed)
    return second(damaged, seed + 1)[0], parts


def _moved(mesh: Mesh, seed: int) -> Mesh:
    """A copy turned about a random axis and pushed a quarter of its size to one side."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    low, high = mesh.bounds
    middle = (low + high) / 2
    aside = rng.normal(size=3)
    aside *= 0.25 * longest_side(mesh) / np.linalg.norm(aside)
    return Mesh((mesh.vertices - middle) @ q.T + middle + aside, mesh.faces)

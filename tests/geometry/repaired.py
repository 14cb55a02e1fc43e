"""What tests ask of a repaired surface, and meshes that are hard to repair."""

from __future__ import annotations

import numpy as np

from tests.geometry.shapes import join
from threed_gen.geometry.mesh import Mesh, merge_by_position, signed_volume
from threed_gen.geometry.surface import OpenSurface, Surface

POLICIES: tuple[OpenSurface, ...] = ("shell", "cap", "winding")


def volumes(surface: Surface) -> np.ndarray:
    """Signed volume of every patch, in units of the mesh."""
    return np.array(
        [
            signed_volume(Mesh(surface.vertices, surface.faces[surface.patch == p]))
            * surface.scale**3
            for p in range(surface.report.patches)
        ]
    )


def positions(surface: Surface) -> np.ndarray:
    return surface.vertices * surface.scale + np.array(surface.offset)


def same_surface(surface: Surface, mesh: Mesh) -> bool:
    """True when the faces are those of the mesh, with their windings, in whatever order."""

    def rows(faces: np.ndarray) -> set[tuple[int, ...]]:
        turn = np.argmin(faces, axis=1)[:, None]
        return set(map(tuple, np.take_along_axis(faces, (turn + np.arange(3)) % 3, 1).tolist()))

    return len(surface.faces) == len(mesh.faces) and rows(surface.faces) == rows(mesh.faces)


def glued(*meshes: Mesh) -> Mesh:
    return merge_by_position(join(*meshes))


def moebius_strip(turns: int = 24) -> Mesh:
    u = np.arange(turns) * 2 * np.pi / turns
    across = np.stack([np.cos(u / 2) * np.cos(u), np.cos(u / 2) * np.sin(u), np.sin(u / 2)], -1)
    middle = np.stack([np.cos(u), np.sin(u), 0 * u], -1) * 2
    vertices = np.concatenate([middle - 0.5 * across, middle + 0.5 * across])
    i = np.arange(turns)
    j = (i + 1) % turns
    near, far = np.where(j > 0, j, turns), np.where(j > 0, j + turns, 0)
    return Mesh(
        vertices,
        np.concatenate([np.stack([i, near, far], -1), np.stack([i, far, i + turns], -1)]),
    )


def klein_bottle() -> Mesh:
    """A closed surface that no winding can make consistent."""
    n, m = 24, 16
    u = np.arange(n)[:, None] * 2 * np.pi / n
    v = np.arange(m)[None, :] * 2 * np.pi / m
    r = 2 + np.cos(u / 2) * np.sin(v) - np.sin(u / 2) * np.sin(2 * v)
    z = np.sin(u / 2) * np.sin(v) + np.cos(u / 2) * np.sin(2 * v)
    vertices = np.stack([r * np.cos(u), r * np.sin(u), z], -1).reshape(-1, 3)
    i, j = (k.ravel() for k in np.meshgrid(np.arange(n), np.arange(m), indexing="ij"))

    def at(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return i % n * m + np.where(i < n, j, -j) % m

    a, b, c, d = at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)
    return Mesh(vertices, np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]))

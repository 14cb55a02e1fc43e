"""Turns a closed but possibly wrongly oriented mesh into oriented shells.

Real files are inside out, have single faces flipped, are doubled with both windings, or hold
several shells. Here duplicate faces go, the rest is cut into shells (faces connected by edges),
and every shell is made to look outwards. Then each shell is given a part in the whole:

  +1 solid   the space it encloses is filled; overlapping solids unite
  -1 cavity  it lies wholly in the solid part of other shells and its faces, as the file wound
             them, look the other way than those of the innermost shell around it

Where the windings of the file say nothing (faces flipped at random), a shell wholly inside a solid
counts as a cavity, because then all faces of the file are surface (even-odd nesting).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.connectivity import component_labels, edge_ids, is_consistent
from threed_gen.geometry.mesh import Mesh, MeshError, face_areas, signed_volume
from threed_gen.geometry.scanline import doubled_area, tie_excluded, to_fixed_point

_FINE_GRID = 1 << 20  # resolution whose fixed-point steps are used
_SAMPLES = 16  # faces of a surface whose middles are asked whether another one encloses it


class EnclosedVolume:
    """The space inside a closed surface in the unit cube."""

    def __init__(self, corners: NDArray[np.float64], orientable: bool) -> None:
        """`corners` float64 [F, 3, 3]; wound outwards if `orientable`, else parity decides."""
        self._triangles, _ = to_fixed_point(corners, _FINE_GRID)
        self._orientable = orientable
        self._low, self._high = self._triangles.min(axis=1), self._triangles.max(axis=1)  # [F, 3]
        self.low, self.high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))  # [3]

    def encloses(self, other: EnclosedVolume) -> bool:
        """True when the middles of (up to 16) faces of `other` all lie in here."""
        if (self.low > other.low).any() or (self.high < other.high).any():
            return False
        count = len(other._triangles)
        picked = np.linspace(0, count - 1, min(_SAMPLES, count)).astype(np.int64)
        return all(self._contains(p) for p in other._triangles[picked].sum(axis=1) // 3)

    def contains(self, point: NDArray[np.float64]) -> bool:
        """True when a point [3] of the unit cube lies inside."""
        return self._contains(to_fixed_point(point, _FINE_GRID)[0])

    def _contains(self, point: NDArray[np.int64]) -> bool:
        flat = point[:2]
        near = ((self._low[:, :2] <= flat) & (self._high[:, :2] >= flat)).all(axis=1)
        triangles = self._triangles[near]
        area = doubled_area(triangles[:, :, :2])
        turn = np.sign(area)
        crossed = turn != 0
        height = np.zeros(len(triangles))
        for k in range(3):
            p, q = triangles[:, k], triangles[:, (k + 1) % 3]
            d = q - p
            side = d[:, 0] * (point[1] - p[:, 1]) - d[:, 1] * (point[0] - p[:, 0])
            crossed &= side * turn >= tie_excluded(d[:, 0] * turn, d[:, 1] * turn)
            opposite = triangles[:, (k + 2) % 3, 2] - point[2]
            height += side * opposite.astype(np.float64)
        below = crossed & (height * turn < 0)
        if not self._orientable:
            return bool(np.count_nonzero(below) % 2)
        return bool(-turn[below].sum() >= 1)


_WALL_SAMPLES = 64  # cancelled faces that are asked whether they lie inside the union


def without_duplicates(mesh: Mesh) -> NDArray[np.int64]:
    """Faces [F, 3] of the closed surface, in their first order.

    Raises MeshError `not_closed`, naming the number of boundary edges.
    """
    faces = mesh.faces
    _, first, copies = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True
    )
    order = np.argsort(first)
    first, copies = first[order], copies[order]
    _demand_closed(faces)
    if len(first) == len(faces):
        return faces
    once = faces[first]
    edge = edge_ids(once)
    odd_edges = np.bincount(edge) % 2 == 1
    if not odd_edges.any():
        return once
    component = component_labels(once)
    at_odd = np.unique(component[np.flatnonzero(odd_edges[edge]) % len(once)])
    # A closed surface stays closed when faces are taken away in pairs.
    cancelled = np.isin(component, at_odd) & (copies % 2 == 0)
    result = once[~cancelled]
    if not _all_inside(mesh.vertices, result, once[cancelled]):
        raise _not_closed(int(odd_edges.sum()))
    _demand_closed(result)
    return result


def _demand_closed(faces: NDArray[np.int64]) -> None:
    odd = int(np.count_nonzero(np.bincount(edge_ids(faces)) % 2))
    if odd:
        raise _not_closed(odd)


def _not_closed(count: int) -> MeshError:
    return MeshError(f"the mesh is not closed: {count} boundary edges", "not_closed")


def _all_inside(
    vertices: NDArray[np.float64], surface: NDArray[np.int64], faces: NDArray[np.int64]
) -> bool:
    """True when the middles of (up to 64 of) the faces lie inside the closed surface."""
    if len(surface) == 0:
        return False
    volume = EnclosedVolume(vertices[surface], orientable=False)
    some = faces[np.linspace(0, len(faces) - 1, min(_WALL_SAMPLES, len(faces))).astype(np.int64)]
    return all(volume.contains(point) for point in vertices[some].mean(axis=1))


_CLEAR_VOTE = 0.2  # |area wound outwards - area wound inwards| / area, below which it is no vote


@dataclass(frozen=True)
class Shell:
    """A closed connected surface, its faces wound outwards where that is possible at all."""

    faces: NDArray[np.int64]  # [F, 3]
    orientable: bool  # False: only the parity of crossings means anything
    vote: float  # +1: the file wound all faces outwards, -1: all inwards
    part: int = 1  # +1 solid, -1 cavity


def oriented_shells(mesh: Mesh) -> list[Shell]:
    """The shells of a closed mesh in the unit cube.

    Raises MeshError `not_closed`, naming the number of boundary edges.
    """
    faces = without_duplicates(mesh)
    shells = [_outward_shell(mesh.vertices, faces[rows]) for rows in _edge_connected(faces)]
    return _with_parts(mesh.vertices, shells)


def _edge_connected(faces: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    labels = component_labels(faces)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _outward_shell(vertices: NDArray[np.float64], source: NDArray[np.int64]) -> Shell:
    faces, orientable = source, is_consistent(source)
    if not orientable:
        import igl

        faces = np.asarray(igl.bfs_orient(source)[0], dtype=np.int64)
        orientable = is_consistent(faces)
    if not orientable:
        return Shell(source, orientable=False, vote=0.0)
    if signed_volume(Mesh(vertices, faces)) < 0:
        faces = faces[:, ::-1]
    # A face kept its winding when the corner after its first corner is still the same.
    at = np.argmax(faces == source[:, :1], axis=1)
    after = faces[np.arange(len(faces)), (at + 1) % 3]
    kept = np.where(after == source[:, 1], 1.0, -1.0)
    area = face_areas(Mesh(vertices, source))
    vote = float((kept * area).sum() / max(float(area.sum()), 1e-300))
    return Shell(faces, orientable=True, vote=vote)


def _with_parts(vertices: NDArray[np.float64], shells: list[Shell]) -> list[Shell]:
    """Decide solid or cavity, from the largest shell to the smallest."""
    if len(shells) == 1:
        return shells
    volumes = [EnclosedVolume(vertices[s.faces], s.orientable) for s in shells]
    size = [float((v.high - v.low).prod()) for v in volumes]
    decided: dict[int, Shell] = {}
    for i in np.argsort(-np.array(size), kind="stable").tolist():
        shell = shells[i]
        around = [j for j in decided if volumes[j].encloses(volumes[i])]
        part = 1
        if sum(decided[j].part for j in around) >= 1:
            outer = shells[around[-1]]
            unclear = min(abs(outer.vote), abs(shell.vote)) < _CLEAR_VOTE
            part = -1 if unclear or outer.vote * shell.vote < 0 else 1
        decided[i] = Shell(shell.faces, shell.orientable, shell.vote, part)
    return [decided[i] for i in range(len(shells))]

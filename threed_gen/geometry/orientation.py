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

from threed_gen.geometry.connectivity import component_labels, is_consistent
from threed_gen.geometry.duplicates import without_duplicates
from threed_gen.geometry.enclosure import EnclosedVolume
from threed_gen.geometry.mesh import Mesh, face_areas, signed_volume

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

"""Sorts the faces of a mesh by what lies on their two sides, cutting only those that need it.

A face whose whole neighbourhood is inside the solid can be seen from nowhere: a part pushed into
another part, the wall of a cavity, the engine under the bonnet. Measured along with the rest it
would fill the field with bricks that no surface passes. So such faces are dropped.

Most faces are wholly of one kind. A face that is partly buried is halved along its longest edge
until the pieces are smaller than a voxel, every piece is judged at its middle, and pieces of one
kind are put together again. What remains of a face may reach a voxel or two into the solid, which
is within the band anyway; never is a piece dropped that has an outside voxel next to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import VoxelSet

MIXED, WALL, INTERIOR = -1, 0, 1
_MOST_PIECES = 1 << 20  # at a time
Decide = Callable[[NDArray[np.float64]], NDArray[np.int8]]  # corners [n, 3, 3] -> kind [n]


@dataclass(frozen=True)
class Rule:
    """How pieces are judged."""

    decide: Decide  # small pieces, each of one kind
    early: Decide | None = None  # larger ones; MIXED where it cannot say
    early_size: float = 0.0  # longest edge up to which `early` may be asked


@dataclass(frozen=True)
class Sorted:
    """Faces by kind; the ones that are of several kinds also in pieces."""

    kind: NDArray[np.int8]  # [F] MIXED where the pieces differ
    pieces: NDArray[np.float64]  # [P, 3, 3] corners of the pieces of mixed faces
    piece_kind: NDArray[np.int8]  # [P]


def sort_faces(corners: NDArray[np.float64], size: float, rule: Rule) -> Sorted:
    """Sort triangles [F, 3, 3]; pieces without an edge longer than `size` are always decided."""
    leaves = _leaf_estimate(corners, size)
    if len(corners) > 1 and leaves.sum() > _MOST_PIECES:
        middle = np.searchsorted(np.cumsum(leaves), leaves.sum() / 2)
        half = int(np.clip(middle, 1, len(leaves) - 1))
        parts = [sort_faces(c, size, rule) for c in (corners[:half], corners[half:])]
        return Sorted(
            np.concatenate([p.kind for p in parts]),
            np.concatenate([p.pieces for p in parts]),
            np.concatenate([p.piece_kind for p in parts]),
        )
    if len(corners) == 1 and leaves[0] > _MOST_PIECES:
        halves = _halves(corners, _edges2(corners))
        return _joined(sort_faces(halves, size, rule), halves)
    return _sort_at_once(corners, size, rule)


def _sort_at_once(corners: NDArray[np.float64], size: float, rule: Rule) -> Sorted:
    levels: list[tuple[NDArray[np.int8], NDArray[np.float64]]] = []
    current = corners
    while len(current):
        edges2 = _edges2(current)
        longest = np.sqrt(edges2.max(axis=1))
        kind = np.full(len(current), MIXED, dtype=np.int8)
        early = (longest <= rule.early_size) & (longest > size)
        if rule.early is not None:
            kind[early] = rule.early(current[early])
        kind[longest <= size] = rule.decide(current[longest <= size])
        current = _halves(current[kind == MIXED], edges2[kind == MIXED])
        levels.append((kind, current))
    below = Sorted(np.zeros(0, np.int8), np.zeros((0, 3, 3)), np.zeros(0, np.int8))
    for kind, halves in reversed(levels):
        joined = _joined(below, halves)
        kind[kind == MIXED] = joined.kind
        below = Sorted(kind, joined.pieces, joined.piece_kind)
    return below


def _joined(halves: Sorted, corners: NDArray[np.float64]) -> Sorted:
    """The faces that pairs of halves (with these corners) make up."""
    pair = halves.kind.reshape(-1, 2)
    alike = pair[:, 0] == pair[:, 1]
    apart = np.repeat(~alike, 2) & (halves.kind != MIXED)
    return Sorted(
        np.where(alike, pair[:, 0], np.int8(MIXED)),
        np.concatenate([halves.pieces, corners[apart]]),
        np.concatenate([halves.piece_kind, halves.kind[apart]]),
    )


def _edges2(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared lengths of the edges opposite each corner, [n, 3]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    sides = (c - b, a - c, b - a)
    return np.stack([np.einsum("ij,ij->i", side, side) for side in sides], axis=1)


def _leaf_estimate(corners: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    a, b, c = np.moveaxis(corners, 1, 0)
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return 4 * area / size**2 + 2 * np.sqrt(_edges2(corners).max(axis=1)) / size + 1


def _halves(corners: NDArray[np.float64], edges2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both halves of every triangle, cut at the middle of its longest edge: [2n, 3, 3]."""
    n = np.arange(len(corners))
    apex = edges2.argmax(axis=1)
    a, b, c = corners[n, apex], corners[n, (apex + 1) % 3], corners[n, (apex + 2) % 3]
    middle = (b + c) / 2
    return np.stack([a, b, middle, a, middle, c], axis=1).reshape(-1, 3, 3)


def voxel_at(points: NDArray[np.float64], resolution: int) -> NDArray[np.int64]:
    """The voxel that each point of the unit cube lies in."""
    return np.floor(points * resolution).astype(np.int64)


def buried(deep: VoxelSet) -> Rule:
    """INTERIOR where the voxel around the middle of a piece belongs to `deep`, else WALL."""
    resolution = deep.grid.resolution
    # The middles of the pieces of a triangle lie within 2/3 of its longest edge from its own.
    maybe, surely = deep.grown(2), deep.shrunk(2)

    def decide(corners: NDArray[np.float64]) -> NDArray[np.int8]:
        return deep.at(voxel_at(corners.mean(axis=1), resolution)).astype(np.int8)

    def early(corners: NDArray[np.float64]) -> NDArray[np.int8]:
        voxel = voxel_at(corners.mean(axis=1), resolution)
        unsure = np.where(maybe.at(voxel), np.int8(MIXED), np.int8(0))
        return np.where(surely.at(voxel), np.int8(1), unsure)

    return Rule(decide, early, 2.5 / resolution)

"""Which side of an open patch looks outwards: the one from which more rays reach the sky.

Points are spread over each patch by area, and from each a ray leaves on either side, one the
mirror image of the other. Points and directions come from a low-discrepancy sequence, not from a
generator, so the same surface always casts the same rays. Rays are float32: they only vote.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp
from numpy.typing import NDArray

from threed_gen.geometry.mesh import Mesh, face_vectors
from threed_gen.geometry.visibility_kernels import sky_kernel
from threed_gen.geometry.warp_runtime import warp_device

wp: Any = warp  # its arrays and launches have no types that a checker could use

_SAMPLES = 40_000  # shared out by area
_FEWEST, _IN_DOUBT = 2, 8  # of one patch, however small; of one whose first rays do not agree
_OFFSET = 1e-5  # of the unit cube: where rays start above the surface
_REACH = 4.0
# Fractional parts of k / root, k / root^2, ... fill the unit hypercube evenly (Roberts 2018); root
# solves x^5 = x + 1.
_STEPS = 1.1673039782614187 ** -np.arange(1.0, 5.0)


def outward_votes(
    surface: Mesh, patch: NDArray[np.int64], asked: NDArray[np.bool_], device: str | None = None
) -> NDArray[np.int64]:
    """Rays that escape at the front of each patch, less those at its back, int64 [P].

    `surface` in the unit cube; `patch` int64 [F]; `asked` bool [P], the others get 0.
    """
    votes = np.zeros(len(asked), np.int64)
    if not asked[patch].any():
        return votes
    caster = _Caster(surface, patch, device)
    votes += caster.votes(asked, _SAMPLES, _FEWEST)
    # Most patches of a soup are clear at once; only the others are worth more rays.
    votes += caster.votes(asked & (np.abs(votes) < _FEWEST), 0, _IN_DOUBT)
    return votes


class _Caster:
    """Casts rays from the patches of one surface."""

    def __init__(self, surface: Mesh, patch: NDArray[np.int64], device: str | None) -> None:
        self._surface, self._patch = surface, patch
        self._vectors = face_vectors(surface)
        self._area = np.linalg.norm(self._vectors, axis=1)
        self._device = warp_device(device)
        corners = surface.faces.astype(np.int32).ravel()
        corners = wp.array(corners, dtype=wp.int32, device=self._device)
        self._tree = wp.Mesh(self._vec3(surface.vertices), corners)

    def votes(self, asked: NDArray[np.bool_], samples: int, fewest: int) -> NDArray[np.int64]:
        """Sum over the samples of each patch: +1 sky in front, -1 sky behind, int64 [P]."""
        faces = np.flatnonzero(asked[self._patch])
        if len(faces) == 0:
            return np.zeros(len(asked), np.int64)
        faces = faces[np.argsort(self._patch[faces], kind="stable")]
        row, number = _spread(self._area[faces], self._patch[faces], samples, fewest)
        seen = self._cast(faces[row], number + fewest)  # other rays than in another round
        sums = np.bincount(self._patch[faces[row]], weights=seen, minlength=len(asked))
        return np.rint(sums).astype(np.int64)

    def _cast(self, face: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int32]:
        u, v, turn, lift = np.modf(0.5 + number[:, None] * _STEPS[None])[0].T
        a, b, c = np.moveaxis(self._surface.triangles[face], 1, 0)
        root = np.sqrt(u)[:, None]  # uniform in a triangle
        points = a * (1 - root) + b * (root * (1 - v[:, None])) + c * (root * v[:, None])
        normals = self._vectors[face] / self._area[face, None]
        directions = _cosine_directions(normals, turn, lift)
        seen = wp.empty(len(face), dtype=wp.int32, device=self._device)
        rays = [self._vec3(points), self._vec3(normals), self._vec3(directions)]
        wp.launch(
            sky_kernel,
            dim=len(face),
            inputs=[self._tree.id, *rays, _OFFSET, _REACH],
            outputs=[seen],
            device=self._device,
        )
        result: NDArray[np.int32] = seen.numpy()
        return result

    def _vec3(self, values: NDArray[np.float64]) -> Any:
        values32 = np.ascontiguousarray(values, np.float32)
        return wp.array(values32, dtype=wp.vec3, device=self._device)


def _spread(
    area: NDArray[np.float64], patch: NDArray[np.int64], samples: int, fewest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples in proportion to area: (row of the face, number of the sample), each [N].

    Rows are sorted by patch.
    """
    start = np.flatnonzero(np.diff(patch, prepend=-1))
    total = np.add.reduceat(area, start)
    share = total / max(float(total.sum()), 1e-300)
    counts = np.maximum(np.floor(share * samples).astype(np.int64), fewest)
    group = np.repeat(np.arange(len(start)), counts)
    number = np.arange(len(group))
    within = number - (np.cumsum(counts) - counts)[group]
    before = np.concatenate([[0.0], np.cumsum(area)])
    at = before[start][group] + (within + 0.5) / counts[group] * total[group]
    last = np.append(start[1:], len(area)) - 1
    row = np.clip(np.searchsorted(before, at, side="right") - 1, start[group], last[group])
    usable = area[row] > 0
    return row[usable], number[usable]


def _cosine_directions(
    normals: NDArray[np.float64], turn: NDArray[np.float64], lift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Directions around normals, denser towards them; `turn` and `lift` in [0, 1)."""
    side = np.where(np.abs(normals[:, :1]) > 0.7, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    tangent = np.cross(normals, side)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    flat, angle = np.sqrt(lift)[:, None], 2 * np.pi * turn[:, None]
    around = tangent * np.cos(angle) + np.cross(normals, tangent) * np.sin(angle)
    return around * flat + normals * np.sqrt(1 - flat**2)

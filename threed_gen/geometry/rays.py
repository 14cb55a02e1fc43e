"""What can be seen from where: rays past the triangles of a surface in the unit cube (warp).

Rays are float32. They only vote on which space a point belongs to; distances and winding numbers
never depend on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp
from numpy.typing import NDArray

from threed_gen.geometry.ray_kernels import any_sky_kernel, segment_kernel
from threed_gen.geometry.warp_runtime import warp_device

wp: Any = warp  # its arrays and launches have no types that a checker could use

_DIRECTIONS = 64
_OFFSET = 1e-5  # of the unit cube: where rays start above the surface
_REACH = 4.0


class RayMesh:
    """Triangles [F, 3, 3] prepared for rays."""

    def __init__(self, corners: NDArray[np.float64], device: str | None = None) -> None:
        self._device = warp_device(device)
        numbers = np.arange(3 * len(corners), dtype=np.int32)
        self._mesh = wp.Mesh(
            self._vectors(corners.reshape(-1, 3)),
            wp.array(numbers, dtype=wp.int32, device=self._device),
        )

    def between(self, starts: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a triangle lies between each start and its end, both [n, 3]."""
        hit = wp.empty(len(starts), dtype=wp.int32, device=self._device)
        wp.launch(
            segment_kernel,
            dim=len(starts),
            inputs=[self._mesh.id, self._vectors(starts), self._vectors(ends)],
            outputs=[hit],
            device=self._device,
        )
        found: NDArray[np.bool_] = hit.numpy() > 0
        return found

    def sees_the_sky(
        self, points: NDArray[np.float64], normals: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Points [n, 3] of the surface from which, on either side, one of 64 rays escapes."""
        seen = wp.empty(len(points), dtype=wp.int32, device=self._device)
        rays = [self._vectors(v) for v in (points, normals, sphere_directions(_DIRECTIONS))]
        wp.launch(
            any_sky_kernel,
            dim=len(points),
            inputs=[self._mesh.id, *rays, _OFFSET, _REACH],
            outputs=[seen],
            device=self._device,
        )
        found: NDArray[np.bool_] = seen.numpy() > 0
        return found

    def _vectors(self, values: NDArray[np.float64]) -> Any:
        flat = np.ascontiguousarray(values, np.float32)
        return wp.array(flat, dtype=wp.vec3, device=self._device)


def sphere_directions(count: int) -> NDArray[np.float64]:
    """Directions spread evenly over the sphere (a Fibonacci spiral), [count, 3]."""
    k = np.arange(count)
    z = 1 - (2 * k + 1) / count
    turn = k * np.pi * (3 - np.sqrt(5.0))
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)

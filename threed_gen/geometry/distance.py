"""Exact distance from points and voxels to triangles, in float64 on CPU or CUDA (warp).

Why not warp's own closest-point query: it computes in float32, and on the long thin triangles of
CAD files (length to width 250 and more) float32 loses a quarter of a voxel and picks the wrong
triangle. Here every step is float64 and the search is bounded: nothing farther than `reach` is
looked at. Distances are unsigned; signs.py knows inside from outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp
from numpy.typing import NDArray

from threed_gen.geometry.bvh import build_box_tree
from threed_gen.geometry.distance_kernels import brick_kernel, point_kernel
from threed_gen.geometry.sparse_sdf import BRICK, BRICK_VOXELS
from threed_gen.geometry.warp_runtime import warp_device

wp: Any = warp  # its arrays and launches have no types that a checker could use


class TriangleDistance:
    """Distance queries against one set of triangles, prepared once."""

    def __init__(self, corners: NDArray[np.float64], device: str | None = None) -> None:
        """`corners` float64 [F, 3, 3]; a triangle with two equal corners counts as a segment."""
        if corners.ndim != 3 or corners.shape[1:] != (3, 3):
            raise ValueError(f"corners must be [F, 3, 3], got {corners.shape}")
        self.device = warp_device(device)
        tree = build_box_tree(np.asarray(corners, dtype=np.float64))
        self.order = tree.order
        self._tree: list[Any] = [
            wp.array(tree.low, dtype=wp.vec3d, device=self.device),
            wp.array(tree.high, dtype=wp.vec3d, device=self.device),
            wp.array(tree.leaf_start, dtype=wp.int32, device=self.device),
            wp.array(tree.corners.reshape(-1, 3), dtype=wp.vec3d, device=self.device),
        ]

    def of_points(
        self, points: NDArray[np.float64], reach: float
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distance [N] (inf where none is nearer than `reach`) and triangle [N] (-1 there)."""
        distance, triangle = self._of_points(points, reach)
        found = triangle >= 0
        return distance, np.where(found, self.order[triangle], -1)

    def _of_points(
        self, points: NDArray[np.float64], reach: float
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        count = len(points)
        queries = wp.array(np.ascontiguousarray(points), dtype=wp.vec3d, device=self.device)
        distance = wp.empty(count, dtype=wp.float64, device=self.device)
        triangle = wp.empty(count, dtype=wp.int32, device=self.device)
        wp.launch(
            point_kernel,
            dim=count,
            inputs=[queries, reach, *self._tree],
            outputs=[distance, triangle],
            device=self.device,
        )
        return distance.numpy(), triangle.numpy()

    def of_bricks(
        self, bricks: NDArray[np.int32], resolution: int, reach: float
    ) -> NDArray[np.float64]:
        """Distance of every voxel centre of the bricks, [B, 512]; inf where beyond `reach`."""
        count = len(bricks)
        centres = (bricks.astype(np.float64) + 0.5) * BRICK / resolution
        half_diagonal = 0.5 * np.sqrt(3.0) * BRICK / resolution
        centre_distance, guess = self._of_points(centres, half_diagonal + reach)
        distance = wp.empty(count * BRICK_VOXELS, dtype=wp.float64, device=self.device)
        wp.launch(
            brick_kernel,
            dim=count * BRICK_VOXELS,
            inputs=[
                wp.array(np.ascontiguousarray(bricks), dtype=wp.vec3i, device=self.device),
                wp.array(guess, dtype=wp.int32, device=self.device),
                wp.array(centre_distance, dtype=wp.float64, device=self.device),
                resolution,
                reach,
                *self._tree,
            ],
            outputs=[distance],
            device=self.device,
        )
        values: NDArray[np.float64] = distance.numpy().reshape(count, BRICK_VOXELS)
        return values

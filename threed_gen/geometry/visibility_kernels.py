# mypy: ignore-errors
# (Kernels are Python in form only: warp compiles them, and its types are not Python's.)
"""The kernel behind visibility.py: does a ray from one side of a face reach the sky?"""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.kernel
def sky_kernel(
    mesh: wp.uint64, points: wp.array(dtype=wp.vec3), normals: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3), offset: float, reach: float,
    seen: wp.array(dtype=wp.int32),
) -> None:  # fmt: skip
    """+1 when the ray escapes at the front, -1 when its mirror image escapes at the back."""
    thread = wp.tid()
    point, normal, toward = points[thread], normals[thread], directions[thread]
    votes = wp.int32(0)
    if not wp.mesh_query_ray_anyhit(mesh, point + normal * offset, toward, reach):
        votes += 1
    mirrored = toward - normal * (2.0 * wp.dot(toward, normal))
    if not wp.mesh_query_ray_anyhit(mesh, point - normal * offset, mirrored, reach):
        votes -= 1
    seen[thread] = votes

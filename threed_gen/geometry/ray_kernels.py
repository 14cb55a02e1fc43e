# mypy: ignore-errors
# (Kernels are Python in form only: warp compiles them, and its types are not Python's.)
"""The kernels behind rays.py: what can be seen from where, past the triangles of a mesh."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.kernel
def any_sky_kernel(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    offset: float,
    reach: float,
    seen: wp.array(dtype=wp.int32),
):
    """1 where one of the directions escapes, each from the side of the face that it points to."""
    i = wp.tid()
    point = points[i]
    normal = normals[i]
    found = wp.int32(0)
    for k in range(directions.shape[0]):
        if found == 0:
            toward = directions[k]
            start = point + normal * (offset * wp.sign(wp.dot(toward, normal)))
            if not wp.mesh_query_ray_anyhit(mesh, start, toward, reach):
                found = wp.int32(1)
    seen[i] = found


@wp.kernel
def segment_kernel(
    mesh: wp.uint64,
    starts: wp.array(dtype=wp.vec3),
    ends: wp.array(dtype=wp.vec3),
    hit: wp.array(dtype=wp.int32),
):
    """1 where a triangle lies between start and end."""
    i = wp.tid()
    way = ends[i] - starts[i]
    length = wp.length(way)
    hit[i] = wp.int32(0)
    if length > 0.0 and wp.mesh_query_ray_anyhit(mesh, starts[i], way / length, length):
        hit[i] = wp.int32(1)

# mypy: ignore-errors
# (Kernels are Python in form only: warp compiles them, and its types are not Python's.)
"""The kernels behind clay.py: one pixel of a clay picture, and how much sky a point sees."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.func
def open_sky(
    mesh: wp.uint64, start: wp.vec3, normal: wp.vec3, rays: wp.int32, reach: float,
    state: wp.uint32,
) -> float:  # fmt: skip
    """Share of short rays that leave unhindered; a hit counts less the farther it is.

    The rays are cosine-weighted and spread evenly (a spiral turned at random per pixel):
    far less grain than independent draws.
    """
    side = wp.vec3(1.0, 0.0, 0.0)
    if wp.abs(normal[0]) > 0.7:
        side = wp.vec3(0.0, 1.0, 0.0)
    tangent = wp.normalize(wp.cross(normal, side))
    other = wp.cross(normal, tangent)
    turn, shift = wp.randf(state), wp.randf(state)
    light = float(0.0)  # noqa: UP018 (Warp: a variable, no constant)
    for ray in range(rays):
        share = (float(ray) + shift) / float(rays)
        angle = 6.2831853 * (turn + 0.618034 * float(ray))
        flat = wp.sqrt(share)
        toward = tangent * (flat * wp.cos(angle)) + other * (flat * wp.sin(angle))
        hit = wp.mesh_query_ray(mesh, start, toward + normal * wp.sqrt(1.0 - share), reach)
        if hit.result:
            light += hit.t / reach
        else:
            light += 1.0
    return light / float(rays)


@wp.kernel
def shade_kernel(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3),
    eye: wp.vec3, right: wp.vec3, up: wp.vec3, forward: wp.vec3, key: wp.vec3,
    color: wp.vec3, width: wp.int32, tangent: float, floor: float, rays: wp.int32,
    out: wp.array(dtype=wp.vec4), shadow_on_floor: wp.array(dtype=wp.float32),
) -> None:  # fmt: skip
    thread = wp.tid()
    column, row = thread % width, thread // width
    x = (2.0 * (float(column) + 0.5) / float(width) - 1.0) * tangent
    y = (1.0 - 2.0 * (float(row) + 0.5) / float(width)) * tangent
    ray = wp.normalize(forward + right * x + up * y)
    state = wp.rand_init(7, thread)
    hit = wp.mesh_query_ray(mesh, eye, ray, 100.0)
    if hit.result:
        corner = hit.face * 3
        n = wp.normalize(
            normals[corner] * hit.u
            + normals[corner + 1] * hit.v
            + normals[corner + 2] * (1.0 - hit.u - hit.v)
        )
        flat = hit.normal
        if wp.dot(flat, ray) > 0.0:  # seen from behind
            flat = -flat
        if wp.dot(n, flat) < 0.0:
            n = -n
        start = eye + ray * hit.t + flat * 2.0e-3
        sky = open_sky(mesh, start, flat, rays, 0.9, state)
        # One jittered shadow ray per sub-pixel makes the edge of the shadow soft.
        jitter = wp.vec3(wp.randf(state) - 0.5, wp.randf(state) - 0.5, wp.randf(state) - 0.5)
        shadow = wp.mesh_query_ray(mesh, start, wp.normalize(key + 0.22 * jitter), 4.0)
        lit = 1.0 - float(shadow.result)
        toward_key = wp.max(0.0, wp.dot(n, key))
        dome = 0.62 + 0.38 * n[1]  # the sky is brighter above
        fill = wp.max(0.0, wp.dot(n, right)) * 0.10
        rim = wp.pow(1.0 - wp.max(0.0, -wp.dot(n, ray)), 3.0) * 0.10 * sky
        half = wp.normalize(key - ray)
        gloss = wp.pow(wp.max(0.0, wp.dot(n, half)), 24.0) * 0.06 * lit
        light = 0.60 * toward_key * lit + 0.46 * dome * sky * sky + fill * sky
        shaded = color * light + wp.vec3(1.0, 1.0, 1.0) * (rim + gloss)
        out[thread] = wp.vec4(shaded[0], shaded[1], shaded[2], 1.0)
    elif ray[1] < -1.0e-4 and eye[1] > floor:
        spot = eye + ray * ((floor - eye[1]) / ray[1])
        distance = wp.sqrt(spot[0] * spot[0] + spot[2] * spot[2])
        if distance < 2.0:
            sky = open_sky(mesh, spot, wp.vec3(0.0, 1.0, 0.0), 2, 1.2, state)
            fade = wp.clamp(2.0 - distance, 0.0, 1.0)
            shadow_on_floor[thread] = 0.66 * (1.0 - sky) * fade


@wp.kernel
def sky_kernel(
    mesh: wp.uint64, points: wp.array(dtype=wp.vec3), normals: wp.array(dtype=wp.vec3),
    rays: wp.int32, reach: float, out: wp.array(dtype=wp.float32),
) -> None:  # fmt: skip
    thread = wp.tid()
    normal = normals[thread]
    start = points[thread] + normal * 4.0e-3
    out[thread] = open_sky(mesh, start, normal, rays, reach, wp.rand_init(11, thread))

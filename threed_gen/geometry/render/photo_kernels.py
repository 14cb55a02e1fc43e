# mypy: ignore-errors
# (Kernels are Python in form only: warp compiles them, and its types are not Python's.)
"""The kernel behind photo.py: one pixel of a photograph, all its rays and the layers they meet."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

OPAQUE, MASK, BLEND = 0, 1, 2
LAYERS = wp.constant(24)  # holes and panes that a ray passes before the next one counts as solid


@wp.func
def texel(
    pixels: wp.array(dtype=wp.uint32), linear: wp.array(dtype=wp.float32),
    start: wp.int32, width: wp.int32, height: wp.int32, column: wp.int32, row: wp.int32,
) -> wp.vec4:  # fmt: skip
    """A pixel of a repeating texture in linear light."""
    x = column % width
    if x < 0:
        x += width
    y = row % height
    if y < 0:
        y += height
    word = pixels[start + y * width + x]
    mask = wp.uint32(255)
    return wp.vec4(
        linear[wp.int32(word & mask)],
        linear[wp.int32((word >> wp.uint32(8)) & mask)],
        linear[wp.int32((word >> wp.uint32(16)) & mask)],
        float((word >> wp.uint32(24)) & mask) / 255.0,
    )


@wp.func
def sampled(
    pixels: wp.array(dtype=wp.uint32), linear: wp.array(dtype=wp.float32),
    start: wp.int32, width: wp.int32, height: wp.int32, u: float, v: float,
) -> wp.vec4:  # fmt: skip
    """The texture at (u, v), bilinear between the middles of pixels."""
    x = (u - wp.floor(u)) * float(width) - 0.5
    y = (v - wp.floor(v)) * float(height) - 0.5
    left, top = wp.int32(wp.floor(x)), wp.int32(wp.floor(y))
    a, b = x - wp.floor(x), y - wp.floor(y)
    upper = (
        texel(pixels, linear, start, width, height, left, top) * (1.0 - a)
        + texel(pixels, linear, start, width, height, left + 1, top) * a
    )
    lower = (
        texel(pixels, linear, start, width, height, left, top + 1) * (1.0 - a)
        + texel(pixels, linear, start, width, height, left + 1, top + 1) * a
    )
    return upper * (1.0 - b) + lower * b


@wp.func
def light_at(
    mesh: wp.uint64, place: wp.vec3, flat: wp.vec3, normal: wp.vec3,
    lamps: wp.array(dtype=wp.vec3), power: wp.array(dtype=wp.float32), sky: float,
    reach: float,
) -> float:  # fmt: skip
    """Irradiance: a white sky that is brighter above, and lamps with shadows."""
    light = sky * (0.7 + 0.3 * normal[1])
    start = place + flat * reach
    for lamp in range(lamps.shape[0]):
        toward = lamps[lamp] - place
        distance = wp.length(toward)
        toward = toward / distance
        cosine = wp.min(wp.dot(normal, toward), wp.dot(flat, toward) * 4.0)
        if cosine > 0.0:
            hit = wp.mesh_query_ray(mesh, start, toward, distance)
            if not hit.result:
                light += power[lamp] * cosine
    return light


@wp.kernel
def photo_kernel(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3), uvs: wp.array(dtype=wp.vec2),
    colors: wp.array(dtype=wp.vec4), material: wp.array(dtype=wp.int32),
    factor: wp.array(dtype=wp.vec4), texture: wp.array(dtype=wp.int32),
    mode: wp.array(dtype=wp.int32), cutoff: wp.array(dtype=wp.float32),
    place_of: wp.array(dtype=wp.vec3i), pixels: wp.array(dtype=wp.uint32),
    linear: wp.array(dtype=wp.float32),
    lamps: wp.array(dtype=wp.vec3), power: wp.array(dtype=wp.float32), sky: float,
    eye: wp.vec3, right: wp.vec3, up: wp.vec3, forward: wp.vec3,
    width: wp.int32, fine: wp.int32, tangent: float, reach: float,
    out: wp.array(dtype=wp.vec4),
) -> None:  # fmt: skip
    thread = wp.tid()
    column, row = thread % width, thread // width
    total = wp.vec4(0.0, 0.0, 0.0, 0.0)
    for sub in range(fine * fine):
        across = (float(column) + (float(sub % fine) + 0.5) / float(fine)) / float(width)
        down = (float(row) + (float(sub // fine) + 0.5) / float(fine)) / float(width)
        x, y = (2.0 * across - 1.0) * tangent, (1.0 - 2.0 * down) * tangent
        ray = wp.normalize(forward + right * x + up * y)
        start = eye
        clear = float(1.0)  # noqa: UP018 (Warp: a variable, no constant)
        layer = wp.int32(0)
        going = wp.int32(1)
        while going == 1:
            hit = wp.mesh_query_ray(mesh, start, ray, 1.0e3)
            if not hit.result:
                going = 0
            else:
                corner = hit.face * 3
                w = 1.0 - hit.u - hit.v
                of = material[hit.face]
                color = wp.cw_mul(
                    factor[of],
                    colors[corner] * hit.u + colors[corner + 1] * hit.v + colors[corner + 2] * w,
                )
                if texture[of] >= 0:
                    uv = uvs[corner] * hit.u + uvs[corner + 1] * hit.v + uvs[corner + 2] * w
                    at = place_of[texture[of]]
                    color = wp.cw_mul(
                        color, sampled(pixels, linear, at[0], at[1], at[2], uv[0], uv[1])
                    )
                alpha = float(1.0)  # noqa: UP018
                if mode[of] == 1 and color[3] < cutoff[of]:
                    alpha = 0.0
                elif mode[of] == 2:
                    alpha = wp.clamp(color[3], 0.0, 1.0)
                layer += 1
                if layer > LAYERS:
                    alpha = 1.0
                place = start + ray * hit.t
                if alpha > 0.0:
                    flat = hit.normal
                    if wp.dot(flat, ray) > 0.0:  # seen from behind
                        flat = -flat
                    n = wp.normalize(
                        normals[corner] * hit.u + normals[corner + 1] * hit.v
                        + normals[corner + 2] * w
                    )  # fmt: skip
                    if wp.dot(n, flat) < 0.0:
                        n = -n
                    light = light_at(mesh, place, flat, n, lamps, power, sky, reach)
                    share = clear * alpha
                    total += wp.vec4(
                        color[0] * light * share, color[1] * light * share,
                        color[2] * light * share, share,
                    )  # fmt: skip
                    clear = clear * (1.0 - alpha)
                start = place + ray * reach
                if clear < 1.0e-3:
                    going = 0
    out[thread] = total / float(fine * fine)

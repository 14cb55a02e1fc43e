# mypy: ignore-errors
# (Kernels are Python in form only: warp compiles them, and its types are not Python's.)
"""The kernels behind distance.py: nearest triangle to a point, in float64, for CPU and CUDA.

The box tree (bvh.py) is walked nearest box first, with a stack of the boxes still to see, and a
box is skipped when it is not nearer than the best triangle so far. One thread answers one point,
with no shared memory and no atomics, so the result is the same bits on every run.
"""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False})

_STACK = wp.constant(64)  # a complete tree over 2^31 triangles is 30 levels deep


@wp.func
def _segment_distance2(p: wp.vec3d, a: wp.vec3d, b: wp.vec3d) -> wp.float64:
    ab = b - a
    length2 = wp.dot(ab, ab)
    t = wp.float64(0.0)
    if length2 > wp.float64(0.0):
        t = wp.clamp(wp.dot(p - a, ab) / length2, wp.float64(0.0), wp.float64(1.0))
    off = p - (a + t * ab)
    return wp.dot(off, off)


@wp.func
def _triangle_distance2(p: wp.vec3d, a: wp.vec3d, b: wp.vec3d, c: wp.vec3d) -> wp.float64:
    """Squared distance to a triangle, which may be degenerate (a segment or a point)."""
    zero = wp.float64(0.0)
    ab = b - a
    ac = c - a
    normal = wp.cross(ab, ac)
    area2 = wp.dot(normal, normal)
    if area2 > zero:
        # The foot of the perpendicular lies in the triangle when it is left of all three sides.
        ap = p - a
        if (
            wp.dot(wp.cross(ab, ap), normal) >= zero
            and wp.dot(wp.cross(c - b, p - b), normal) >= zero
            and wp.dot(wp.cross(ap, ac), normal) >= zero
        ):
            height = wp.dot(ap, normal)
            return height * height / area2
    return wp.min(
        _segment_distance2(p, a, b),
        wp.min(_segment_distance2(p, b, c), _segment_distance2(p, c, a)),
    )


@wp.func
def _box_distance2(p: wp.vec3d, low: wp.vec3d, high: wp.vec3d) -> wp.float64:
    zero = wp.vec3d(wp.float64(0.0), wp.float64(0.0), wp.float64(0.0))
    off = wp.max(wp.max(low - p, p - high), zero)
    return wp.dot(off, off)


@wp.func
def _nearest(
    p: wp.vec3d,
    bound2: wp.float64,
    guess: wp.int32,
    low: wp.array(dtype=wp.vec3d),
    high: wp.array(dtype=wp.vec3d),
    leaf_start: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.vec3d),
):
    """Nearest triangle nearer than sqrt(bound2), as (triangle or -1, squared distance)."""
    best = wp.int32(-1)
    best2 = bound2
    if guess >= 0:
        d2 = _triangle_distance2(
            p, corners[3 * guess], corners[3 * guess + 1], corners[3 * guess + 2]
        )
        if d2 < best2:
            best2 = d2
            best = guess
    leaves = leaf_start.shape[0] - 1
    stack = wp.zeros(shape=(_STACK,), dtype=wp.int32)
    stack_d2 = wp.zeros(shape=(_STACK,), dtype=wp.float64)
    stack[0] = wp.int32(1)
    stack_d2[0] = _box_distance2(p, low[1], high[1])
    top = wp.int32(1)
    while top > 0:
        top -= 1
        if stack_d2[top] < best2:
            node = stack[top]
            if node >= leaves:
                for t in range(leaf_start[node - leaves], leaf_start[node - leaves + 1]):
                    d2 = _triangle_distance2(
                        p, corners[3 * t], corners[3 * t + 1], corners[3 * t + 2]
                    )
                    if d2 < best2:
                        best2 = d2
                        best = t
            else:
                near = 2 * node
                far = near + 1
                near_d2 = _box_distance2(p, low[near], high[near])
                far_d2 = _box_distance2(p, low[far], high[far])
                if far_d2 < near_d2:
                    swap = near
                    near = far
                    far = swap
                    swap_d2 = near_d2
                    near_d2 = far_d2
                    far_d2 = swap_d2
                if far_d2 < best2:
                    stack[top] = far
                    stack_d2[top] = far_d2
                    top += 1
                if near_d2 < best2:
                    stack[top] = near
                    stack_d2[top] = near_d2
                    top += 1
    return best, best2


@wp.kernel
def point_kernel(
    points: wp.array(dtype=wp.vec3d),
    reach: wp.float64,
    low: wp.array(dtype=wp.vec3d),
    high: wp.array(dtype=wp.vec3d),
    leaf_start: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.vec3d),
    distance: wp.array(dtype=wp.float64),
    triangle: wp.array(dtype=wp.int32),
):
    i = wp.tid()
    best, best2 = _nearest(points[i], reach * reach, wp.int32(-1), low, high, leaf_start, corners)
    triangle[i] = best
    distance[i] = wp.where(best >= 0, wp.sqrt(best2), wp.float64(wp.inf))


@wp.kernel
def brick_kernel(
    bricks: wp.array(dtype=wp.vec3i),
    guess: wp.array(dtype=wp.int32),
    centre_distance: wp.array(dtype=wp.float64),
    resolution: wp.int32,
    reach: wp.float64,
    low: wp.array(dtype=wp.vec3d),
    high: wp.array(dtype=wp.vec3d),
    leaf_start: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.vec3d),
    distance: wp.array(dtype=wp.float64),
):
    i = wp.tid()
    brick = i // 512
    voxel = i % 512
    local = wp.vec3i(voxel // 64, (voxel // 8) % 8, voxel % 8)
    cell = bricks[brick] * 8 + local
    half = wp.float64(0.5)
    step = wp.float64(1.0) / wp.float64(resolution)
    p = wp.vec3d(
        (wp.float64(cell[0]) + half) * step,
        (wp.float64(cell[1]) + half) * step,
        (wp.float64(cell[2]) + half) * step,
    )
    # A distance changes by at most the way walked: voxels that cannot be in reach are not asked.
    mid = wp.float64(3.5)
    off = wp.vec3d(
        wp.float64(local[0]) - mid, wp.float64(local[1]) - mid, wp.float64(local[2]) - mid
    )
    walked = wp.length(off) * step
    distance[i] = wp.float64(wp.inf)
    if centre_distance[brick] - walked < reach * wp.float64(1.0 + 1.0e-9):
        best, best2 = _nearest(p, reach * reach, guess[brick], low, high, leaf_start, corners)
        if best >= 0:
            distance[i] = wp.sqrt(best2)

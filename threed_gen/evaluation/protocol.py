"""The whole comparison of one predicted surface with the true one, as docs/evaluation.md says.

Twice the numbers of metrics.py: over all samples ("all"), and over those that can be seen from
outside ("visible"): walls inside a solid that nobody sees count in the first only. Distances go to
all triangles of the other side in both. `sharp_…` are the same over the samples near the truth's
sharp edges. `viou` compares the volumes of closed surfaces. "point_to_point" measures from points
to points as many papers do; its numbers have a floor that depends on how many points are taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from threed_gen.evaluation.metrics import (
    DEFAULT_SAMPLES,
    distance_metrics,
    f_scores,
    unit_box,
    worst_metrics,
)
from threed_gen.evaluation.sharp import SharpRegion
from threed_gen.evaluation.surface import (
    Bool,
    Float,
    Int,
    Surface,
    closest,
    sample_surface,
    seen_from_outside,
    surface_of,
)
from threed_gen.geometry.mesh import Mesh, is_watertight
from threed_gen.geometry.scanline import column_crossings

PAPER_POINTS = 1_000_000
FAR = 10.0  # mean spacings of samples, beyond which the nearest sample is not looked for
# Turns by a few degrees, so that walls along the axes pass through many layers of a grid.
ASKEW = Rotation.from_rotvec([0.05, 0.08, 0.065]).as_matrix()
VOLUME_GRID = 512  # cells along the longest side of the box around both
SCOPES = ("all", "visible")


@dataclass(frozen=True)
class Sampling:
    """How many points are drawn, and from which seed."""

    samples: int = DEFAULT_SAMPLES  # per side, and of the volume
    paper_points: int = PAPER_POINTS  # per side, of the point-to-point variant; 0: leave it out
    seed: int = 0


@dataclass(frozen=True)
class Side:
    """Samples of one surface, in the frame of the truth's box."""

    points: Float  # [N, 3]
    normals: Float  # [N, 3] unit
    seen: Bool  # [N] from outside

    @staticmethod
    def of(surface: Surface, count: int, seed: int) -> Side:
        """`count` points of a surface that is not empty."""
        points, face = sample_surface(surface, count, seed)
        return Side(points, surface.normals[face], seen_from_outside(surface, points, face))


def compare(
    pred: Mesh,
    truth: Mesh,
    sharp: SharpRegion,
    sampling: Sampling = Sampling(),
) -> dict[str, Any]:
    """All numbers of one shape; those that are not defined are None.

    Args:
        pred: the predicted surface, in the truth's frame; an empty one gets the worst values.
        truth: the true surface; must have faces.
        sharp: where the truth is sharp.

    Returns:
        "all" and "visible": {cd_l1, cd_l2, f@…, nc, nc_abs, hd95, sharp_f@…, sharp_nc,
        sharp_nc_abs}, lengths in halves of the longest side of the true box; "viou"; and
        "point_to_point": {cd_l1, cd_l2, f@…, nc, nc_abs, hd95} of the whole surface.

    Raises:
        ValueError: the truth has no surface.
    """
    center, scale = unit_box(truth)
    real, guess = surface_of(truth, center, scale), surface_of(pred, center, scale)
    count, seed = sampling.samples, sampling.seed
    a = Side.of(real, count, seed)
    if guess.empty:
        return _worst(a, sharp.near(a.points / scale + center), sampling)
    b = Side.of(guess, count, seed + 1)
    d1, on_guess = closest(a.points, guess)
    d2, on_real = closest(b.points, real)
    dot1 = np.einsum("nc,nc->n", a.normals, guess.normals[on_guess])
    dot2 = np.einsum("nc,nc->n", b.normals, real.normals[on_real])
    near1, near2 = (sharp.near(side.points / scale + center) for side in (a, b))
    result: dict[str, Any] = {}
    for scope in SCOPES:
        of1, of2 = _within(scope, a), _within(scope, b)
        numbers: dict[str, float | None] = {}
        numbers |= _plain(d1[of1], dot1[of1], d2[of2], dot2[of2])
        of1, of2 = of1 & near1, of2 & near2
        result[scope] = numbers | _sharp(d1[of1], dot1[of1], d2[of2], dot2[of2])
    result["viou"] = volume_iou(pred, truth, guess, real, sampling)
    if sampling.paper_points:
        result["point_to_point"] = point_to_point(guess, real, sampling)
    return result


def point_to_point(guess: Surface, real: Surface, sampling: Sampling) -> dict[str, Any]:
    """The numbers with distances to the nearest *sample*: for comparison with papers only.

    A sample that is more than FAR spacings away counts with its distance to the triangle, which is
    then shorter by 1/800 at most on average: to search the nearest of a million samples that are
    nearly equally far (a wall deep inside another) would take hours.
    """
    count, seed = sampling.paper_points, sampling.seed
    a, b = (sample_surface(s, count, seed + k) for k, s in enumerate((real, guess)))
    return _plain(*_to_samples(a, real, b, guess), *_to_samples(b, guess, a, real))


def _to_samples(
    side: tuple[Float, Int], surface: Surface, other: tuple[Float, Int], target: Surface
) -> tuple[Float, Float]:
    """Distances of one side's samples to the nearest of the other's, and dots of the normals."""
    (points, face), (goals, faces) = side, other
    reach = FAR * math.sqrt(float(target.areas.sum()) / len(goals))
    distance, near = cKDTree(goals).query(points, distance_upper_bound=reach)
    found = np.isfinite(distance)
    hit = np.empty(len(points), np.int64)  # the face of the other side
    hit[found] = faces[near[found]]
    if not found.all():
        distance[~found], hit[~found] = closest(points[~found], target)
    return distance, np.einsum("nc,nc->n", surface.normals[face], target.normals[hit])


def volume_iou(
    pred: Mesh, truth: Mesh, guess: Surface, real: Surface, sampling: Sampling
) -> float | None:
    """Intersection over union of the volumes, by uniform points and winding numbers.

    The points are centres of random cells of a grid over both, where winding numbers are exact
    (scanline.py). The box around both is stretched to a cube first, which changes no share of
    volume, and the grid lies askew, so that no wall falls between two of its layers. A point is
    inside where the number is not 0, so a surface turned inside out encloses what it encloses.
    None when either surface is not closed: then it has no volume.
    """
    if not is_watertight(pred) or not is_watertight(truth):
        return None
    corners = [s.vertices[s.faces] for s in (guess, real)]  # each [F, 3, 3]
    low, sides = _box(corners)
    corners = [(c - low) / np.where(sides > 0, sides, 1.0) @ ASKEW.T for c in corners]
    low, sides = _box(corners)
    side = float(sides.max())
    random = np.random.Generator(np.random.Philox(sampling.seed + 2))
    cells = np.maximum(np.ceil(sides / side * VOLUME_GRID), 1)
    voxels = np.floor(random.random((sampling.samples, 3)) * cells).astype(np.int64)
    one, other = (_inside((c - low) / side, voxels) for c in corners)
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else None


def _box(corners: list[Float]) -> tuple[Float, Float]:
    """Lowest corner and sides of the box around all, each [3]."""
    low = np.minimum(*(c.min(axis=(0, 1)) for c in corners))
    return low, np.maximum(*(c.max(axis=(0, 1)) for c in corners)) - low


def _inside(corners: Float, voxels: Int) -> Bool:
    """Which voxels [N, 3] lie inside a closed surface [F, 3, 3] of the unit cube."""
    try:
        crossings = column_crossings(corners, np.ones(len(corners), np.int64), VOLUME_GRID)
        return crossings.winding(voxels) != 0
    except ValueError:  # its faces are wound in different ways: then crossings are only counted
        return column_crossings(corners, None, VOLUME_GRID).winding(voxels) % 2 == 1


def _within(scope: str, side: Side) -> Bool:
    return side.seen if scope == "visible" else np.ones(len(side.seen), bool)


def _plain(d1: Float, dot1: Float, d2: Float, dot2: Float) -> dict[str, float | None]:
    if len(d1) and len(d2):
        return {**distance_metrics(d1, d2, dot1, dot2)}
    return dict.fromkeys(worst_metrics())


def _sharp(d1: Float, dot1: Float, d2: Float, dot2: Float) -> dict[str, float | None]:
    """F-scores and normals of the samples near sharp edges; None where the truth has none.

    A prediction that leaves these edges bare has precision 0, and normals of the truth's side only.
    """
    names = [name for name in worst_metrics() if name.startswith(("f@", "nc"))]
    if not len(d1):
        return dict.fromkeys(f"sharp_{name}" for name in names)
    dots = [dot for dot in (dot1, dot2) if len(dot)]
    numbers = f_scores(d1, d2)
    numbers["nc"] = math.fsum(float(dot.mean()) for dot in dots) / len(dots)
    numbers["nc_abs"] = math.fsum(float(np.abs(dot).mean()) for dot in dots) / len(dots)
    return {f"sharp_{name}": numbers[name] for name in names}


def _worst(a: Side, near: Bool, sampling: Sampling) -> dict[str, Any]:
    """What an empty prediction gets."""
    result: dict[str, Any] = {}
    worst = worst_metrics()
    sharp = {f"sharp_{k}": v for k, v in worst.items() if k.startswith(("f@", "nc"))}
    for scope in SCOPES:
        known = bool((near & _within(scope, a)).any())
        result[scope] = {**worst, **(sharp if known else dict.fromkeys(sharp))}
    result["viou"] = None
    if sampling.paper_points:
        result["point_to_point"] = dict(worst)
    return result

"""The numbers by which a reconstruction is judged: on surfaces and on fields.

Surfaces are compared after both meshes went through the transform that takes the box of the
*true* mesh to [-1, 1] (longest side 2). N points lie on either side, area-weighted and seeded, and
are measured to the other side's *triangles* in float64, so a perfect copy scores exactly
0 / 1: there is no sampling floor as in point-to-point variants.

    d1 = truth's samples → predicted triangles        d2 = predicted samples → true triangles
    cd_l1   (mean d1 + mean d2) / 2
    cd_l2   mean d1² + mean d2²
    f@t     harmonic mean of precision P(d2 < t) and recall P(d1 < t); t = 0.02 is 1 % of the box
    nc      mean over both ways of n · n', face normals; nc_abs with |n · n'|
    hd95    the larger of the two 95 % quantiles of d1 and d2

Fields are compared on all 512 voxels of every active brick, or on the band where said so.
"""

from __future__ import annotations

import math

import numpy as np

from threed_gen.evaluation.surface import Float, closest, sample_surface, surface_of
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.sparse_sdf import SparseSDF

THRESHOLDS = (0.02, 0.01, 0.005, 0.001)
DEFAULT_SAMPLES = 200_000
# What an empty prediction is charged: every distance is the diagonal of the box [-1, 1]³.
WORST_DISTANCE = 2 * math.sqrt(3)
# Metrics of which more is better; of all others (distances, errors, counts) less is.
_MORE_IS_BETTER = ("nc", "nc_abs", *(f"f@{t:g}" for t in THRESHOLDS))
HIGHER_IS_BETTER = frozenset(
    {"iou", "viou", "roundtrip_iou", "precision", "recall", "sign_accuracy", *_MORE_IS_BETTER,
     *(f"sharp_{k}" for k in _MORE_IS_BETTER)}
)  # fmt: skip


def mesh_metrics(
    pred: Mesh, truth: Mesh, samples: int = DEFAULT_SAMPLES, seed: int = 0
) -> dict[str, float]:
    """Distances, F-scores and normal consistency of `pred` against `truth`.

    Args:
        pred: the predicted surface; an empty one gets the worst value of each metric.
        truth: the true surface, in the same frame; must have faces.
        samples: points per side.
        seed: of the sampling.

    Returns:
        cd_l1, cd_l2, f@0.02, f@0.01, f@0.005, f@0.001, nc, nc_abs, hd95 (lengths in units of
        half the longest side of the true box).

    Raises:
        ValueError: the truth has no surface; nothing can be said about it.
    """
    center, scale = unit_box(truth)
    real = surface_of(truth, center, scale)
    guess = surface_of(pred, center, scale)
    if guess.empty:
        return worst_metrics()
    real_points, real_face = sample_surface(real, samples, seed)
    guess_points, guess_face = sample_surface(guess, samples, seed + 1)
    d1, on_guess = closest(real_points, guess)
    d2, on_real = closest(guess_points, real)
    dot1 = np.einsum("nc,nc->n", real.normals[real_face], guess.normals[on_guess])
    dot2 = np.einsum("nc,nc->n", guess.normals[guess_face], real.normals[on_real])
    return distance_metrics(d1, d2, dot1, dot2)


def distance_metrics(d1: Float, d2: Float, dot1: Float, dot2: Float) -> dict[str, float]:
    """The numbers of this file from distances and dot products of normals; no side is empty.

    Args:
        d1, dot1: [N] of the truth's samples, to the prediction.
        d2, dot2: [M] of the prediction's samples, to the truth.
    """
    result = {
        "cd_l1": float(d1.mean() + d2.mean()) / 2,
        "cd_l2": float(np.square(d1).mean() + np.square(d2).mean()),
        "nc": float(dot1.mean() + dot2.mean()) / 2,
        "nc_abs": float(np.abs(dot1).mean() + np.abs(dot2).mean()) / 2,
        "hd95": float(max(np.quantile(d1, 0.95), np.quantile(d2, 0.95))),
    }
    return result | f_scores(d1, d2)


def f_scores(d1: Float, d2: Float) -> dict[str, float]:
    """F@t of every threshold: the harmonic mean of P(d2 < t) and R(d1 < t); 0 for an empty side."""
    result = {}
    for threshold in THRESHOLDS:
        precision = float((d2 < threshold).mean()) if len(d2) else 0.0
        recall = float((d1 < threshold).mean()) if len(d1) else 0.0
        total = precision + recall
        result[f"f@{threshold:g}"] = 2 * precision * recall / total if total > 0 else 0.0
    return result


def worst_metrics() -> dict[str, float]:
    """What `mesh_metrics` says of an empty prediction: every distance is the box's diagonal."""
    return {
        "cd_l1": WORST_DISTANCE,
        "cd_l2": 2 * WORST_DISTANCE**2,
        "nc": -1.0,
        "nc_abs": 0.0,
        "hd95": WORST_DISTANCE,
        **{f"f@{threshold:g}": 0.0 for threshold in THRESHOLDS},
    }


def field_metrics(pred: SparseSDF, truth: SparseSDF) -> dict[str, float]:
    """Compare two fields voxel by voxel; both must have the same bricks.

    Returns:
        iou: of {s < 0} over all voxels of active bricks (1 if neither has an inside voxel);
        sign_accuracy: share of those voxels with the right sign;
        error_voxels: mean |ŝ - s| in voxel widths over the truth's band;
        error_voxels_all: the same over all voxels of active bricks.

    Raises:
        ValueError: the two have different bricks, resolutions or τ.
    """
    if (pred.resolution, pred.tau) != (truth.resolution, truth.tau) or not np.array_equal(
        pred.bricks, truth.bricks
    ):
        raise ValueError("field_metrics compares fields on the same grid, bricks and tau only")
    inside, real = pred.sdf < 0, truth.sdf < 0  # [B, 512]
    union = int(np.count_nonzero(inside | real))
    error = np.abs(pred.sdf.astype(np.float64) - truth.sdf) * (truth.tau * truth.resolution)
    band = error[truth.band]
    return {
        "iou": int(np.count_nonzero(inside & real)) / union if union else 1.0,
        "sign_accuracy": float((inside == real).mean()) if inside.size else 1.0,
        "error_voxels": float(band.mean()) if band.size else 0.0,
        "error_voxels_all": float(error.mean()) if error.size else 0.0,
    }


def unit_box(truth: Mesh) -> tuple[Float, float]:
    """Centre of the true surface's box, and the factor that makes its longest side 2."""
    surface = surface_of(truth)
    if surface.empty:
        raise ValueError("the true mesh has no surface to compare with")
    corners = surface.vertices[surface.faces].reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return (low + high) / 2, float(2.0 / (high - low).max())

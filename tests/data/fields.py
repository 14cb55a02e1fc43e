"""Small fields with known values for the tests of this folder."""

from __future__ import annotations

import numpy as np

from threed_gen.geometry.sparse_sdf import BRICK_VOXELS, SparseSDF, raster_offsets


def analytic_sphere(resolution: int, tau: float, radius: float = 0.35) -> SparseSDF:
    """The field of a sphere around the middle of the cube, from its closed form."""
    side = resolution // 8
    axis = np.arange(side, dtype=np.int32)
    bricks = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    coords = bricks[:, None] * 8 + raster_offsets()[None]
    distance = np.linalg.norm((coords + 0.5) / resolution - 0.5, axis=-1) - radius
    band = np.abs(distance) < tau
    keep = band.any(axis=1)
    sdf = np.clip(distance / tau, -1, 1).astype(np.float32)
    sharp = band & (coords[..., 0] % 5 == 0)
    return SparseSDF(
        bricks[keep], sdf[keep], band[keep], sharp[keep], resolution, tau, 1.5, (0.25, -1.0, 3.0)
    )


def random_field(rng: np.random.Generator, bricks: int, resolution: int = 64) -> SparseSDF:
    """Any valid field: random bricks, masks and signs, with zeros and tiny values among them."""
    side = resolution // 8
    chosen = np.sort(rng.choice(side**3, size=min(bricks, side**3), replace=False))
    coords = np.stack(np.unravel_index(chosen, (side, side, side)), -1).astype(np.int32)
    band = rng.random((len(coords), BRICK_VOXELS)) < rng.random()
    band[np.arange(len(coords)), rng.integers(0, BRICK_VOXELS, len(coords))] = True
    magnitude = rng.random(band.shape) ** 4
    magnitude[rng.random(band.shape) < 0.05] = 1e-12
    magnitude[rng.random(band.shape) < 0.02] = 0.0
    magnitude[~band] = 1.0
    sdf = (magnitude * rng.choice([-1.0, 1.0], band.shape)).astype(np.float32)
    sharp = band & (rng.random(band.shape) < 0.2)
    return SparseSDF(
        coords, sdf, band, sharp, resolution, 4 / resolution, 0.1 + rng.random(), (0.1, -0.0, 1e9)
    )


def same_field(a: SparseSDF, b: SparseSDF) -> bool:
    """True when every number of the two fields is equal."""
    arrays = all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in ("bricks", "sdf", "band", "sharp")
    )
    return arrays and (a.resolution, a.tau, a.scale, a.offset) == (
        b.resolution,
        b.tau,
        b.scale,
        b.offset,
    )

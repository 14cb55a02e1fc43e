"""A stored field at another, coarser resolution or smaller truncation, by trilinear interpolation.

Only what the stored band knows can be resampled: a target value |d| < tau' needs its eight stored
neighbours inside the stored band, hence tau >= tau' + sqrt(3)/R. Where that holds, the sign of
every other voxel follows too: farther than tau from the surface nothing changes sign within a
step of one voxel, so a voxel without stored neighbours takes the sign of the voxel beside it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import (
    BRICK,
    BRICK_VOXELS,
    SparseSDF,
    brick_keys,
    check_grid,
    raster_index,
    raster_offsets,
    voxel_centres,
)

CHUNK = 1024  # target bricks at a time: about 100 MB
SHARP_VOXELS = 2.0  # geometry marks voxels within this many voxels of a sharp edge


def check_resample(resolution: int, tau: float, target: int, target_tau: float) -> None:
    """UserError, naming both sides, unless a grid (resolution, tau) can give (target, target_tau).

    Truncations are in unit-cube units.
    """
    check_grid(target, target_tau)
    have, want = f"resolution {resolution}, tau {tau:g}", f"resolution {target}, tau {target_tau:g}"
    if target > resolution:
        raise UserError(
            f"stored {have} is coarser than the wanted {want}; prepare `--resolution {target}`"
        )
    needed = target_tau + (0.0 if target == resolution else np.sqrt(3.0) / resolution)
    if tau < needed * (1 - 1e-9):
        raise UserError(
            f"stored {have} does not reach far enough for the wanted {want}, which needs a stored "
            f"tau of {needed:g}; prepare `--resolution {target}`, or with a larger tau"
        )


def resample(sdf: SparseSDF, resolution: int, tau: float) -> SparseSDF:
    """`sdf` on a grid of `resolution` with truncation `tau` (unit-cube units).

    Raises UserError, naming both, where the stored tau does not reach (see `check_resample`).
    """
    check_resample(sdf.resolution, sdf.tau, resolution, tau)
    lookup = _Lookup(sdf)
    candidates = _candidates(sdf, resolution)
    bricks, fields, bands = [], [], []
    for start in range(0, len(candidates), CHUNK):
        chunk = candidates[start : start + CHUNK]
        distance, sign = lookup.interpolate(chunk, resolution)  # [b, 512] each
        band = np.abs(distance) < tau
        keep = band.any(axis=1)
        distance, sign, band = distance[keep], _spread(sign[keep]), band[keep]
        near = np.clip(distance / tau, -1.0, 1.0).astype(np.float32)
        bricks.append(chunk[keep])
        fields.append(np.where(band, near, sign).astype(np.float32))
        bands.append(band)
    result = SparseSDF(
        bricks=np.concatenate(bricks),
        sdf=np.concatenate(fields),
        band=np.concatenate(bands),
        sharp=np.zeros((sum(map(len, bricks)), BRICK_VOXELS), dtype=bool),
        resolution=resolution,
        tau=tau,
        scale=sdf.scale,
        offset=sdf.offset,
    )
    result.sharp[result.band] = _near_sharp(sdf, result.coords, resolution)
    return result


class _Lookup:
    """Stored distances by grid coordinates."""

    def __init__(self, sdf: SparseSDF) -> None:
        self.sdf = sdf
        side = sdf.resolution // BRICK
        self.row = np.full(side**3, -1, dtype=np.int32)  # brick → its row, -1 where there is none
        self.row[brick_keys(sdf.bricks, sdf.resolution)] = np.arange(len(sdf.bricks))

    def interpolate(
        self, bricks: NDArray[np.int32], resolution: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """Distance (infinite where unknown) and sign (0 where unknown) of voxels, [b, 512]."""
        stored = self.sdf.resolution
        voxels = bricks[:, None, :] * BRICK + raster_offsets()[None]  # [b, 512, 3]
        place = voxel_centres(voxels, resolution) * stored - 0.5
        low = np.floor(place + 1e-9).astype(np.int64)
        weight = np.maximum(place - low, 0.0)
        weight[weight < 1e-9] = 0.0
        high = np.where(weight > 0, low + 1, low)
        total = np.zeros(low.shape[:2])
        exact = np.ones(low.shape[:2], dtype=bool)
        sign = np.zeros(low.shape[:2], dtype=np.int8)
        for corner in product((0, 1), repeat=3):
            where = np.where(corner, high, low)
            row = self.row[brick_keys(where // BRICK, stored)]
            index = raster_index(where)
            s = np.where(row >= 0, self.sdf.sdf[row, index], np.float32(0))
            in_band = (row >= 0) & self.sdf.band[row, index]
            exact &= in_band
            total += s * np.prod(np.where(corner, weight, 1 - weight), axis=-1)
            # Beyond tau the surface is farther away than this corner: same side.
            sign = np.where((row >= 0) & ~in_band, np.where(s < 0, -1, 1), sign).astype(np.int8)
        sign = np.where(exact, np.where(total < 0, -1, 1), sign).astype(np.int8)
        return np.where(exact, total * self.sdf.tau, np.inf), sign


def _candidates(sdf: SparseSDF, resolution: int) -> NDArray[np.int32]:
    """Every target brick that a stored brick may reach, sorted."""
    ratio = resolution / sdf.resolution
    first = np.floor((sdf.bricks * BRICK - 1) * ratio / BRICK).astype(np.int64)
    last = np.floor((sdf.bricks * BRICK + BRICK + 1) * ratio / BRICK).astype(np.int64)
    steps = np.asarray(list(product((0, 1, 2), repeat=3)))  # a brick spans three at most
    reached = np.minimum(first[:, None, :] + steps, last[:, None, :]).reshape(-1, 3)
    side = resolution // BRICK
    keys = np.unique(brick_keys(np.clip(reached, 0, side - 1), resolution))
    return np.stack(np.unravel_index(keys, (side, side, side)), axis=-1).astype(np.int32)


def _spread(sign: NDArray[np.int8]) -> NDArray[np.int8]:
    """Fill the zeros of each brick [b, 512] with the sign of a neighbouring voxel."""
    grid = sign.reshape(-1, BRICK, BRICK, BRICK).copy()
    while not grid.all():
        before = np.count_nonzero(grid)
        for axis in (1, 2, 3):
            swapped = np.moveaxis(grid, axis, 0)  # a view: writing to it writes to the grid
            for k in range(1, BRICK):
                swapped[k] = np.where(swapped[k] == 0, swapped[k - 1], swapped[k])
            for k in range(BRICK - 2, -1, -1):
                swapped[k] = np.where(swapped[k] == 0, swapped[k + 1], swapped[k])
        if np.count_nonzero(grid) == before:
            raise ValueError("not a valid SparseSDF: a brick without any known sign")
    return grid.reshape(-1, BRICK_VOXELS)


def _near_sharp(sdf: SparseSDF, coords: NDArray[np.int32], resolution: int) -> NDArray[np.bool_]:
    """Which target band voxels [V, 3] lie as near to a sharp edge as geometry would ask."""
    brick, voxel = np.nonzero(sdf.sharp)
    if len(brick) == 0:
        return np.zeros(len(coords), dtype=bool)
    marked = sdf.bricks[brick] * BRICK + raster_offsets()[voxel]
    # Stored marks lie within SHARP_VOXELS/R of the edge, targets shall lie within SHARP_VOXELS/R'.
    reach = SHARP_VOXELS / resolution - SHARP_VOXELS / sdf.resolution + 0.5 / sdf.resolution
    tree = cKDTree(voxel_centres(marked, sdf.resolution))
    distance, _ = tree.query(
        voxel_centres(coords, resolution), distance_upper_bound=reach * (1 + 1e-9)
    )
    near: NDArray[np.bool_] = np.isfinite(distance)
    return near

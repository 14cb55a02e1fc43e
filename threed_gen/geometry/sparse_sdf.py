"""SparseSDF: a truncated signed distance field that exists only near the surface.

The unit cube is cut into R^3 voxels, and the voxels into bricks of 8^3. A brick is kept when at
least one of its voxel centres lies closer to the surface than the truncation tau; of a kept brick
every voxel is stored. So a field is a short sorted list of bricks, and that list is also the token
list of the latent space. Nothing here ever holds R^3 numbers.

Grid: voxel i has its centre at (i + 0.5) / R. Values: s = clamp(d / tau, -1, 1), positive outside.
Raster order inside a brick: x * 64 + y * 8 + z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError

BRICK = 8  # voxels along one side of a brick
BRICK_VOXELS = BRICK**3
MIN_RESOLUTION = 16
# A cell cut by the surface has all eight corners within sqrt(3) = 1.732 voxels of it. With a
# smaller tau some of those corners would be unknown and the extracted surface would have holes.
MIN_TAU_VOXELS = 1.75


@dataclass(frozen=True)
class SparseSDF:
    """Truncated signed distances on the active bricks of an R^3 grid over the unit cube."""

    bricks: NDArray[np.int32]  # [B, 3] in [0, R/8), lexicographic in (x, y, z), unique
    sdf: NDArray[np.float32]  # [B, 512] s of every voxel of the brick, raster order
    band: NDArray[np.bool_]  # [B, 512] |d| < tau: V_in of the Direct3D-S2 paper
    sharp: NDArray[np.bool_]  # [B, 512] band voxels near a sharp edge of the source mesh
    resolution: int  # R, voxels along one side of the unit cube
    tau: float  # truncation distance, in unit-cube units
    scale: float  # mesh_xyz = unit_xyz * scale + offset
    offset: tuple[float, float, float]

    @property
    def num_bricks(self) -> int:
        """B, also the number of latent tokens."""
        return len(self.bricks)

    @property
    def num_voxels(self) -> int:
        """Number of band voxels."""
        return int(np.count_nonzero(self.band))

    @property
    def inside(self) -> NDArray[np.bool_]:
        """[B, 512] voxels whose centre lies inside the solid."""
        return self.sdf < 0

    def voxel_coords(self) -> NDArray[np.int32]:
        """Grid coordinates of every stored voxel, int32 [B, 512, 3]."""
        return self.bricks[:, None, :] * np.int32(BRICK) + raster_offsets()[None, :, :]

    @property
    def coords(self) -> NDArray[np.int32]:
        """Grid coordinates of the band voxels, int32 [V, 3], brick by brick in raster order."""
        brick, voxel = np.nonzero(self.band)
        return self.bricks[brick] * np.int32(BRICK) + raster_offsets()[voxel]

    @property
    def values(self) -> NDArray[np.float32]:
        """s of the band voxels, float32 [V], in the order of `coords`."""
        return self.sdf[self.band]

    def validate(self, exact: bool = True) -> None:
        """Raise ValueError, naming the broken rule, unless this field keeps its promises.

        `exact=False` is for predicted fields: their values beyond the band need not be +-1.
        """
        n = len(self.bricks)
        check_grid(self.resolution, self.tau)
        _demand(self.bricks.shape == (n, 3), "bricks must be [B, 3]")
        _demand(self.bricks.dtype == np.int32, "bricks must be int32")
        _demand(self.sdf.dtype == np.float32, "sdf must be float32")
        for name in ("sdf", "band", "sharp"):
            array = getattr(self, name)
            _demand(array.shape == (n, BRICK_VOXELS), f"{name} must be [B, 512]")
            _demand(name == "sdf" or array.dtype == np.bool_, f"{name} must be bool")
        in_grid = (self.bricks >= 0) & (self.bricks < self.resolution // BRICK)
        _demand(bool(in_grid.all()), "bricks must lie in [0, R/8)")
        keys = brick_keys(self.bricks, self.resolution)
        _demand(bool((np.diff(keys) > 0).all()), "bricks must be sorted and unique")
        _demand(bool(np.isfinite(self.sdf).all()), "sdf must be finite")
        _demand(not bool((self.sharp & ~self.band).any()), "sharp must be a subset of band")
        _demand(bool(self.band.any(axis=1).all()), "every brick needs a band voxel")
        _demand(np.isfinite(self.scale) and self.scale > 0, "scale must be positive")
        _demand(len(self.offset) == 3 and bool(np.isfinite(self.offset).all()), "offset must be 3D")
        if exact:
            _demand(bool((np.abs(self.sdf) <= 1).all()), "sdf must lie in [-1, 1]")
            beyond = np.abs(self.sdf[~self.band])
            _demand(bool((beyond == 1).all()), "voxels beyond the band must be exactly +-1")


def default_tau(resolution: int) -> float:
    """Truncation in unit-cube units: 4/R below 256, 1/128 for 256 to 512, 4/R beyond."""
    if 256 <= resolution <= 512:
        return 1.0 / 128.0
    return 4.0 / max(resolution, 1)  # an impossible resolution is check_grid's to name


def check_grid(resolution: int, tau: float) -> None:
    """UserError unless R is a multiple of 8, at least 16, and tau spans at least 1.75 voxels."""
    if resolution < MIN_RESOLUTION or resolution % BRICK:
        raise UserError(
            f"resolution {resolution}: must be a multiple of {BRICK} and at least {MIN_RESOLUTION}"
        )
    if not np.isfinite(tau) or tau * resolution < MIN_TAU_VOXELS - 1e-9:
        raise UserError(
            f"tau {tau:g} is {tau * resolution:.2f} voxels at resolution {resolution}: it must be "
            f"at least {MIN_TAU_VOXELS} voxels ({MIN_TAU_VOXELS / resolution:g}), or leave it out"
        )


def brick_keys(bricks: NDArray[np.integer], resolution: int) -> NDArray[np.int64]:
    """One int64 per brick that sorts like (x, y, z); bricks [..., 3] must lie in the grid."""
    n = resolution // BRICK
    wide = bricks.astype(np.int64)
    keys: NDArray[np.int64] = (wide[..., 0] * n + wide[..., 1]) * n + wide[..., 2]
    return keys


@cache
def raster_offsets() -> NDArray[np.int32]:
    """Offset (x, y, z) of each of the 512 voxels of a brick, int32 [512, 3], read-only."""
    axis = np.arange(BRICK, dtype=np.int32)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets.setflags(write=False)
    return offsets


def raster_index(xyz: NDArray[np.integer]) -> NDArray[np.int64]:
    """Raster index within its brick of each voxel, from grid coordinates [..., 3]."""
    local = xyz.astype(np.int64) % BRICK
    index: NDArray[np.int64] = (local[..., 0] * BRICK + local[..., 1]) * BRICK + local[..., 2]
    return index


def voxel_centres(xyz: NDArray[np.integer], resolution: int) -> NDArray[np.float64]:
    """Unit-cube positions of voxel centres, float64 [..., 3]."""
    centres: NDArray[np.float64] = (xyz.astype(np.float64) + 0.5) / resolution
    return centres


def _demand(condition: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"not a valid SparseSDF: {rule}")

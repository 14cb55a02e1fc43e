"""VoxelGrid: *where* the voxels of a batch are, and everything that follows from that alone.

Neighbour maps, pooling, subdivision and window tables depend on coordinates only. They are built
once, cached here, moved together by `.to(device)`, and shared by all layers, by forward, backward
and recomputation. Coarse and fine grids are linked (`pooled().coarse`, `subdivided().fine`), so an
encoder and a decoder that meet in one latent grid build each level once. All sizes are Python
integers: no layer reads one back from the GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from kernels.sparse_conv.plan import KERNEL_VOLUME, neighbour_rows
from kernels.voxel_order import (
    BLOCK,
    BLOCK_VOXELS,
    MAX_BATCH,
    MAX_RESOLUTION,
    RASTER_TO_CANONICAL,
    canonical_key,
)
from threed_gen.sparse.levels import Pooling, Subdivision, pool_grid, subdivide_grid
from threed_gen.sparse.windows import Windows, build_windows

__all__ = ["RASTER_TO_CANONICAL", "VoxelGrid"]

T = TypeVar("T")


class VoxelGrid:
    """Sorted, unique voxels of a batch of samples, with cached index tables.

    coords: int32 [N, 4] (batch, x, y, z) in canonical order (see `kernels/voxel_order.py`).
    cu_seqlens: int32 [batch_size + 1], first row of each sample.
    seqlens: voxels of each sample, Python ints.
    Make one with `from_coords` or `from_bricks`, which check and sort.
    """

    def __init__(
        self,
        coords: Tensor,
        cu_seqlens: Tensor,
        resolution: int,
        batch_size: int,
        seqlens: Sequence[int] | None = None,
    ) -> None:
        assert coords.ndim == 2 and coords.shape[1] == 4 and coords.dtype == torch.int32
        assert cu_seqlens.shape == (batch_size + 1,) and cu_seqlens.dtype == torch.int32
        self.coords, self.cu_seqlens = coords, cu_seqlens
        self.resolution, self.batch_size = resolution, batch_size
        self.seqlens: list[int] = list(cu_seqlens.diff().tolist() if seqlens is None else seqlens)
        assert sum(self.seqlens) == coords.shape[0], "cu_seqlens must end at the number of voxels"
        self._cache: dict[Hashable, Any] = {}

    @classmethod
    def from_coords(
        cls, coords: Tensor, resolution: int, batch_size: int, sort: bool = True
    ) -> tuple[VoxelGrid, Tensor]:
        """A grid from voxels [N, 4] (batch, x, y, z), and the order int64 [N] to give features.

        Features of row i belong at row j where order[j] == i: `feats = values[order]`.
        With sort=False the rows must already be in canonical order.
        Raises ValueError for voxels out of range, twice the same voxel, or unsorted rows.
        """
        _check(coords, resolution, batch_size)
        key = canonical_key(coords)
        if sort:
            key, order = torch.sort(key)
            coords = coords[order]
        else:
            order = torch.arange(len(coords), device=coords.device)
        if len(key) > 1:
            step = int(key.diff().min())
            if step == 0:
                raise ValueError("VoxelGrid: the same voxel occurs twice in the same sample")
            if step < 0:
                raise ValueError("VoxelGrid: sort=False but the voxels are not in canonical order")
        return cls.trusted(coords.to(torch.int32).contiguous(), resolution, batch_size), order

    @classmethod
    def from_bricks(
        cls,
        bricks: Sequence[Tensor],
        resolution: int,
        occupied: Sequence[Tensor] | None = None,
    ) -> tuple[VoxelGrid, Tensor]:
        """The grid of 8³ bricks, one tensor [B_i, 3] per sample, in voxels of `resolution`.

        occupied: bool [B_i, 512] per sample in raster order (x*64 + y*8 + z) keeps only those
        voxels; all voxels without it. The bricks of a sample are in lexicographic order.
        Returns the grid and order int64 [N] into the samples' concatenated raster values:
        `feats = torch.cat(sdf).reshape(-1)[order]`.
        """
        batch_size = len(bricks)
        if resolution % BLOCK:
            raise ValueError(f"VoxelGrid: resolution {resolution} is not a multiple of {BLOCK}")
        samples = torch.repeat_interleave(
            torch.arange(batch_size), torch.tensor([len(b) for b in bricks], dtype=torch.long)
        )
        corner = torch.cat([b.reshape(-1, 3).long() for b in bricks] or [torch.zeros(0, 3).long()])
        corners = torch.cat([samples.to(corner.device)[:, None], corner], dim=1)  # [B, 4]
        _check(corners, resolution // BLOCK, batch_size, what="brick")
        device = corners.device
        raster = RASTER_TO_CANONICAL.to(device)
        if len(corners) > 1:
            key = corners[:, 0]
            for axis in (1, 2, 3):
                key = (key << 13) | corners[:, axis]
            if int(key.diff().min()) <= 0:
                raise ValueError("VoxelGrid: bricks must be unique and sorted by (x, y, z)")
        local = torch.stack([raster * 0, raster >> 6, (raster >> 3) & 7, raster & 7], dim=1)
        scale = torch.tensor([1, BLOCK, BLOCK, BLOCK], device=device)
        coords = (corners * scale).int()[:, None, :] + local.int()[None, :, :]  # [B, 512, 4]
        order = torch.arange(len(corners), device=device)[:, None] * BLOCK_VOXELS + raster
        if occupied is None:
            return cls.trusted(coords.reshape(-1, 4), resolution, batch_size), order.reshape(-1)
        if [tuple(o.shape) for o in occupied] != [(len(b), BLOCK_VOXELS) for b in bricks]:
            raise ValueError(
                "VoxelGrid: occupied needs one bool [B_i, 512] for each sample's bricks"
            )
        keep = torch.cat([o.bool() for o in occupied])[:, raster] if batch_size else order.bool()
        return cls.trusted(coords[keep], resolution, batch_size), order[keep]

    @classmethod
    def trusted(cls, coords: Tensor, resolution: int, batch_size: int) -> VoxelGrid:
        """A grid of int32 coordinates that are known to be valid and in canonical order."""
        bounds = torch.arange(batch_size + 1, dtype=torch.int32, device=coords.device)
        starts = torch.searchsorted(coords[:, 0].contiguous(), bounds, out_int32=True)
        return cls(coords, starts, resolution, batch_size)

    @property
    def num_voxels(self) -> int:
        return self.coords.shape[0]

    @property
    def device(self) -> torch.device:
        return self.coords.device

    def cached(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build` returns, built at the first call with `key` and kept with the grid."""
        if key not in self._cache:
            self._cache[key] = build()
        return cast(T, self._cache[key])

    def batch_index(self) -> Tensor:
        """Sample of each row. int64 [N]."""
        return self.cached("batch_index", lambda: self.coords[:, 0].long())

    def neighbour_rows(self) -> Tensor:
        """Row of each voxel's 27 neighbours, `num_voxels` where there is none. int32 [N, 27]."""
        return self.cached("neighbours", lambda: neighbour_rows(self.coords, self.resolution))

    def neighbours(self) -> Tensor:
        """`neighbour_rows`, offset (k%3-1, k//3%3-1, k//9-1) first. int32 [27, N]."""
        rows = self.neighbour_rows().t()
        assert rows.shape == (KERNEL_VOLUME, self.num_voxels)
        return rows

    def pooled(self) -> Pooling:
        """The grid of half the resolution and who belongs to whom."""
        return self.cached("pooled", lambda: pool_grid(self))

    def subdivided(self) -> Subdivision:
        """The grid of twice the resolution in which every voxel has all its eight children."""
        return self.cached("subdivided", lambda: subdivide_grid(self))

    def windows(self, size: int, shift: int) -> Windows:
        """Attention windows of `size`³ voxels after adding `shift` to every coordinate."""
        return self.cached(("windows", size, shift), lambda: build_windows(self, size, shift))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VoxelGrid:
        """The same grid with all its tables (and linked grids) on `device`."""
        if torch.device(device) == self.device:
            return self
        memo: dict[int, Any] = {}
        return cast(VoxelGrid, _move(self, torch.device(device), non_blocking, memo))

    def __repr__(self) -> str:
        return (
            f"VoxelGrid({self.num_voxels} voxels, {self.batch_size} samples, "
            f"{self.resolution}³, {self.device})"
        )


def _check(coords: Tensor, resolution: int, batch_size: int, what: str = "voxel") -> None:
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        raise ValueError(f"VoxelGrid: coords must be integers [N, 4], got {list(coords.shape)}")
    if not (1 <= resolution <= MAX_RESOLUTION and 0 <= batch_size <= MAX_BATCH):
        raise ValueError(f"VoxelGrid: resolution {resolution} or batch size {batch_size} too large")
    if not len(coords):
        return
    low, high = (bound.tolist() for bound in torch.aminmax(coords, dim=0))
    if min(low) < 0:
        raise ValueError(f"VoxelGrid: negative {what} coordinate or sample number (minimum {low})")
    if high[0] >= batch_size:
        raise ValueError(f"VoxelGrid: sample {high[0]} in a batch of {batch_size}")
    if max(high[1:]) >= resolution:
        raise ValueError(f"VoxelGrid: {what} {high[1:]} outside a grid of {resolution}³")


def _move(value: Any, device: torch.device, non_blocking: bool, memo: dict[int, Any]) -> Any:
    """`value` with every tensor in it on `device`; linked grids are moved once."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, VoxelGrid):
        moved = VoxelGrid(
            value.coords.to(device, non_blocking=non_blocking),
            value.cu_seqlens.to(device, non_blocking=non_blocking),
            value.resolution,
            value.batch_size,
            value.seqlens,
        )
        memo[id(value)] = moved
        moved._cache = {
            key: _move(item, device, non_blocking, memo) for key, item in value._cache.items()
        }
        return moved
    if isinstance(value, tuple):
        return tuple(_move(item, device, non_blocking, memo) for item in value)
    if isinstance(value, dict):
        return {}  # another library's own tables (spconv): it builds them anew where it runs
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {
            field.name: _move(getattr(value, field.name), device, non_blocking, memo)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **parts)
    return value

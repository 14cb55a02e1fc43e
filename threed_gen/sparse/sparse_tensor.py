"""SparseTensor: *what* is in the voxels: features beside the grid that says where they are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from threed_gen.sparse.voxel_grid import VoxelGrid


class _Pair(NamedTuple):
    feats: Tensor  # [N, C]
    grid: VoxelGrid


class SparseTensor(_Pair):
    """Features of a voxel grid, row by row.

    A named tuple and not a dataclass: ZeRO-3 hangs its hooks on the tensors that a module takes
    and gives, and it finds them inside tuples, lists and dicts only.
    """

    __slots__ = ()

    def __new__(cls, feats: Tensor, grid: VoxelGrid) -> SparseTensor:
        """Check that there is one row of features for each voxel."""
        assert feats.ndim == 2 and feats.shape[0] == grid.num_voxels, (
            f"features {list(feats.shape)} for {grid.num_voxels} voxels"
        )
        return super().__new__(cls, feats, grid)

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features on the same grid."""
        return SparseTensor(feats, self.grid)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseTensor:
        """Features, grid and all its cached tables on `device`."""
        feats = self.feats.to(device, non_blocking=non_blocking)
        return SparseTensor(feats, self.grid.to(device, non_blocking))

    def split(self) -> list[Tensor]:
        """The features of each sample."""
        return list(torch.split(self.feats, self.grid.seqlens))

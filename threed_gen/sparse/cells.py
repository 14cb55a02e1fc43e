"""Compression cells of attention as a voxel grid of their own, so that convolutions run on them.

An `SSAPlan` numbers the occupied m³ cells of a grid in the order of their tokens; a grid of coarse
voxels has a canonical order of its own, and with it every table that a convolution and a norm need.
Here is the way between the two, built once per batch and kept with the grid of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.ssa import SSAPlan
from kernels.voxel_order import canonical_key
from threed_gen.sparse.gather import gather_sum
from threed_gen.sparse.norm import segment_plan
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class CellGrid:
    """The M occupied cells as voxels of the resolution / m, and the way between the row orders."""

    grid: VoxelGrid
    order: Tensor  # int64 [M], the plan's row of each row of `grid`
    inverse: Tensor  # int64 [M], the row of `grid` of each row of the plan

    def enter(self, feats: Tensor) -> SparseTensor:
        """Features [M, C] in the plan's order, as a tensor on the grid of the cells."""
        return SparseTensor(gather_sum(feats, self.order, self.inverse), self.grid)

    def leave(self, x: SparseTensor) -> Tensor:
        """Back to the plan's order, [M, C]."""
        return gather_sum(x.feats, self.inverse, self.order)


def cell_grid(grid: VoxelGrid, plan: SSAPlan) -> CellGrid:
    """The cells of `plan`, which is a plan of the voxels of `grid`; cached with `grid`."""
    return grid.cached(("cells", plan.cell), lambda: _build(grid, plan))


def prepare_cells(grid: VoxelGrid, plan: SSAPlan) -> VoxelGrid:
    """Cache all tables of norms and convolutions over cells (in a loader's worker)."""
    segment_plan(grid)
    cells = cell_grid(grid, plan).grid
    segment_plan(cells)
    cells.neighbour_rows()
    return grid


def _build(grid: VoxelGrid, plan: SSAPlan) -> CellGrid:
    coords = grid.coords[plan.cells.starts[:-1].long()]  # the first token of a cell says where
    coords[:, 1:] //= plan.cell
    order = torch.argsort(canonical_key(coords))
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=grid.device)
    resolution = -(-grid.resolution // plan.cell)
    return CellGrid(VoxelGrid.trusted(coords[order], resolution, grid.batch_size), order, inverse)

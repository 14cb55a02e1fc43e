"""Everything about Spatial Sparse Attention that depends on coordinates alone.

Built once per batch, best in a loader's worker, and shared by all layers, by forward, backward and
recomputation. Rows are in the canonical order (batch, 8³ block, 4³ cell, voxel), so a selection
block and a compression cell are both plain runs of rows: tables of starts are all that attention
needs. Sizes are Python integers; nothing is ever read back from a GPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.ssa.tables import (
    KEY_TILE,
    QUERY_TILES,
    DenseTables,
    Runs,
    Tiles,
    cut,
    dense_tables,
    longest,
    runs_of,
    starts_of,
)
from kernels.voxel_order import MAX_BATCH, MAX_RESOLUTION, canonical_key, window_key

BLOCK = 8  # the canonical order keeps 8³ blocks together, so selection blocks are 8³
CELLS = (4, 8)  # compression cells that are runs of rows in that order


@dataclass(frozen=True)
class WindowTable:
    """Windows of one shift: rows sorted by window."""

    order: Tensor  # int64 [N], rows sorted by window (stable)
    inverse: Tensor  # int64 [N], place of each row in `order`
    starts: Tensor  # int32 [windows + 1], first place of each window
    dense: DenseTables  # every row of a window reads every row of it
    shift: int
    count: int
    longest: int

    def sort(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors of the plan's rows [N, …] in the order of the windows."""
        return tuple(x[self.order] for x in tensors)

    def restore(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Back to the plan's order."""
        return tuple(x[self.inverse] for x in tensors)


@dataclass(frozen=True)
class SSAPlan:
    """Index tables of one batch; see `build_plan`."""

    tokens: int  # N
    batch_size: int  # B
    cell: int  # m_cmp
    window: int  # m_win
    shift: int  # the shift that a call uses: 0 or window / 2
    cu_seqlens: Tensor  # int32 [B + 1], first row of each sample
    longest_sample: int
    blocks: Runs  # selection blocks, 8³
    cells: Runs  # compression cells, `cell`³
    block_of_cell: Tensor  # int32 [M], selection block that holds each cell
    place_in_cell: Tensor  # int32 [N], x*cell² + y*cell + z inside the cell, for P[c mod m_cmp]
    samples: tuple[Tiles, ...]  # samples cut into tiles of so many rows, for each of QUERY_TILES
    block_tiles: Tiles  # blocks cut into tiles of at most KEY_TILE rows
    compression: DenseTables  # every row of a sample reads every cell of the sample
    windows: tuple[WindowTable, WindowTable]  # shift 0 and window / 2

    @property
    def num_cells(self) -> int:
        """M, rows of the compressed keys and values."""
        return self.cells.count

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.cu_seqlens.device

    @property
    def near(self) -> WindowTable:
        """The windows of the current shift."""
        return self.windows[self.shift > 0]

    def with_shift(self, shift: int) -> SSAPlan:
        """The same plan with the other window shift; shares every table."""
        known = [table.shift for table in self.windows]
        if shift not in known:
            raise ValueError(f"shift: got {shift}, this plan has {known[0]} or {known[1]}")
        return dataclasses.replace(self, shift=shift)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SSAPlan:
        """The same plan with its tables on another device."""
        moved: SSAPlan = _move(self, torch.device(device), non_blocking)
        return moved


def build_plan(
    coords_N4: Tensor,
    block: int = BLOCK,
    cell: int = 4,
    window: int = 8,
    shift: int = 0,
    batch_size: int | None = None,
) -> SSAPlan:
    """Tables for the voxels `coords_N4` (batch, x, y, z), int [N, 4], in canonical order.

    block: edge of a selection block (m_slc); cell: of a compression cell (m_cmp, 4 or 8); window:
    of a window (m_win, even); shift: 0 or window / 2 (`with_shift` gives the other). batch_size:
    samples of the batch; without it, those up to the last one that has a voxel.

    Raises ValueError naming the argument, what it got and what it needs: coordinates that are not
    sorted (`sort_coords` sorts them), occur twice, are negative or too large.
    """
    _check_sizes(block, cell, window, shift)
    coords, batch_size = _checked(coords_N4, batch_size)
    wide = coords.long()
    samples = torch.arange(batch_size + 1, device=coords.device)
    cu_seqlens = torch.searchsorted(wide[:, 0].contiguous(), samples)
    key = canonical_key(coords)
    blocks = runs_of(key >> 9, cu_seqlens)
    cells = runs_of(key >> 6, cu_seqlens) if cell == 4 else blocks
    local = wide[:, 1:] % cell
    block_of_cell = blocks.of_row[cells.starts[:-1].long()]
    return SSAPlan(
        tokens=len(coords), batch_size=batch_size, cell=cell, window=window, shift=shift,
        cu_seqlens=cu_seqlens.int(), longest_sample=longest(cu_seqlens),
        blocks=blocks, cells=cells, block_of_cell=block_of_cell,
        place_in_cell=((local[:, 0] * cell + local[:, 1]) * cell + local[:, 2]).int(),
        samples=tuple(cut(cu_seqlens, size) for size in QUERY_TILES),
        block_tiles=cut(blocks.starts, KEY_TILE),
        compression=dense_tables(cu_seqlens, cells.of_sample.long()),
        windows=(_windows(wide, window, 0), _windows(wide, window, window // 2)),
    )  # fmt: skip


def sort_coords(coords_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in canonical order, and the row of the input that each came from, int64 [N]."""
    order = torch.argsort(canonical_key(coords_N4), stable=True)
    return coords_N4[order], order


def _check_sizes(block: int, cell: int, window: int, shift: int) -> None:
    if block % max(cell, 1):
        raise ValueError(f"block: got {block}, it must be a multiple of cell = {cell}")
    if block != BLOCK:
        raise ValueError(f"block: got {block}, selection blocks are {BLOCK}³ in this order of rows")
    if cell not in CELLS:
        raise ValueError(f"cell: got {cell}, it must be 4 or 8")
    if window < 2 or window % 2:
        raise ValueError(f"window: got {window}, it must be even and at least 2")
    if shift not in (0, window // 2):
        raise ValueError(f"shift: got {shift}, it must be 0 or {window // 2}")


def _checked(coords: Tensor, batch_size: int | None) -> tuple[Tensor, int]:
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        kind = f"{coords.dtype} {list(coords.shape)}"
        raise ValueError(f"coords_N4: got {kind}, it must be an integer tensor [N, 4]")
    if len(coords):
        low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
        if min(low) < 0:
            raise ValueError(f"coords_N4: got {min(low)}, coordinates must not be negative")
        if max(high[1:]) >= MAX_RESOLUTION or high[0] >= MAX_BATCH:
            raise ValueError(
                f"coords_N4: got up to {high}, the batch must stay below {MAX_BATCH} and "
                f"coordinates below {MAX_RESOLUTION}"
            )
    last = int(coords[-1, 0]) if len(coords) else -1
    step = canonical_key(coords).diff()
    if len(step) and int(step.min()) <= 0:
        row = int((step <= 0).nonzero()[0])
        a, b = coords[row].tolist(), coords[row + 1].tolist()
        problem = "occurs twice" if a == b else f"must not come before {b}"
        raise ValueError(
            f"coords_N4: row {row}, {a}, {problem}; rows must be unique and in canonical order "
            "(kernels.ssa.sort_coords sorts them)"
        )
    if batch_size is None:
        return coords, last + 1
    if batch_size <= last:
        raise ValueError(f"batch_size: got {batch_size}, coords_N4 has sample {last}")
    return coords, batch_size


def _windows(wide: Tensor, size: int, shift: int) -> WindowTable:
    key, order = torch.sort(window_key(wide, size, shift), stable=True)
    _, lengths = torch.unique_consecutive(key, return_counts=True)
    starts = starts_of(lengths)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return WindowTable(
        order, inverse, starts.int(), dense_tables(starts, starts), shift,
        count=len(lengths), longest=longest(starts),
    )  # fmt: skip


def _move(value: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, tuple):
        return tuple(_move(item, device, non_blocking) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        parts = {f.name: _move(getattr(value, f.name), device, non_blocking) for f in fields}
        return dataclasses.replace(value, **parts)
    return value

"""Index plans of sparse convolutions: who reads whom, from coordinates alone.

A submanifold convolution needs the rows of each voxel's 27 neighbours. Instead of 27 searches,
voxels are laid into a small table per occupied 8³ block; each block then reads a 10³ halo of row
numbers from itself and its 26 neighbour blocks, and every neighbour of every voxel is a constant
step away inside that halo. Only occupied blocks take memory; nothing of size R³ is made.

Convolving voxels that were just copied to all their children (nearest upsampling) needs far less:
the eight children of a cell see only 2³ coarse cells each, with kernel taps that fall into the
same cell added up (`upsample_taps`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

KERNEL_VOLUME = 27
BLOCK, HALO = 8, 10
ROWS_AT_ONCE = 1 << 18  # bounds the int64 temporaries of large grids


def offsets() -> Tensor:
    """Offset (dx, dy, dz) of kernel index k: (k%3 - 1, k//3%3 - 1, k//9 - 1). int64 [27, 3]."""
    k = torch.arange(KERNEL_VOLUME)
    return torch.stack([k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1], dim=1)


@cache
def _halo_tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Constants of the 10³ halo of an 8³ block.

    block [1000]: which of the 27 neighbour blocks a halo cell lies in (index as in `offsets`);
    local [1000]: its raster index there; centre [512]: the halo cell of each raster index;
    step [27]: distance in the halo from a cell to its neighbour k.
    """
    cell = torch.arange(HALO**3)
    axes = torch.stack([cell // HALO**2, cell // HALO % HALO, cell % HALO], dim=1) - 1  # -1..8
    side = torch.div(axes, BLOCK, rounding_mode="floor") + 1  # 0, 1, 2
    inner = axes % BLOCK
    block = side[:, 0] + 3 * side[:, 1] + 9 * side[:, 2]
    local = inner[:, 0] * 64 + inner[:, 1] * 8 + inner[:, 2]
    raster = torch.arange(BLOCK**3)
    centre = (raster // 64 + 1) * HALO**2 + (raster // 8 % 8 + 1) * HALO + (raster % 8 + 1)
    step = offsets() @ torch.tensor([HALO**2, HALO, 1])
    return block, local, centre, step


def neighbour_rows(coords: Tensor, resolution: int) -> Tensor:
    """Rows of the 27 neighbours of each voxel, N where a neighbour is absent. int32 [N, 27].

    coords: int [N, 4] (batch, x, y, z) in [0, resolution), unique, sorted so that 8³ blocks are
    contiguous and ascend in (batch, x, y, z). Column k is the voxel at `offsets()[k]`.
    """
    assert coords.ndim == 2 and coords.shape[1] == 4
    total, device = coords.shape[0], coords.device
    if total == 0:
        return torch.zeros(0, KERNEL_VOLUME, dtype=torch.int32, device=device)
    halo_block, halo_local, centre, step = (t.to(device) for t in _halo_tables())

    wide = coords.long()
    low = wide[:, 1:] & (BLOCK - 1)
    raster = low[:, 0] * 64 + low[:, 1] * 8 + low[:, 2]
    span = (resolution + BLOCK - 1) // BLOCK + 2  # one empty block on either side: no wrap-around
    key = wide[:, 0]
    for axis in (1, 2, 3):
        key = key * span + (wide[:, axis] >> 3) + 1
    blocks, block_of = torch.unique_consecutive(key, return_inverse=True)  # [K], [N]

    table = torch.full((len(blocks) + 1, BLOCK**3), total, dtype=torch.int32, device=device)
    table[block_of, raster] = torch.arange(total, dtype=torch.int32, device=device)
    reach = offsets().to(device) @ torch.tensor([span * span, span, 1], device=device)
    wanted = blocks[:, None] + reach  # [K, 27]
    found = torch.searchsorted(blocks, wanted).clamp_(max=len(blocks) - 1)
    near = torch.where(blocks[found] == wanted, found, len(blocks))
    halo = table[near[:, halo_block], halo_local].view(-1)  # [K * 1000]

    position = block_of * HALO**3 + centre[raster]
    rows = torch.empty(total, KERNEL_VOLUME, dtype=torch.int32, device=device)
    for start in range(0, total, ROWS_AT_ONCE):
        piece = position[start : start + ROWS_AT_ONCE, None] + step
        rows[start : start + ROWS_AT_ONCE] = halo[piece]
    return rows


@cache
def upsample_taps() -> tuple[Tensor, Tensor]:
    """How a 3³ kernel on copied children folds into eight 2³ kernels on their parents.

    Child c = (c>>2, c>>1&1, c&1) and tap t (likewise) read the parent's neighbour at offset
    c + t - 1 per axis. Returns that neighbour's index int64 [8, 8] (child, tap) and the 0/1 matrix
    float64 [64, 27] whose row (child, tap) adds up the kernel entries that fall into it.
    """
    bits = torch.tensor([[c >> 2, (c >> 1) & 1, c & 1] for c in range(8)])
    step = torch.tensor([1, 3, 9])
    neighbour = ((bits[:, None, :] + bits[None, :, :]) * step).sum(2)  # offset + 1 = c + t
    lands = torch.div(bits[:, None, :] + offsets()[None, :, :], 2, rounding_mode="floor")
    landed = ((lands + 1) * step).sum(2)  # [8, 27]: neighbour of the parent under kernel entry k
    fold = (landed[:, None, :] == neighbour[:, :, None]).double()  # [8, 8, 27]
    return neighbour, fold.view(64, KERNEL_VOLUME)


def upsample_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gather tables of the folded convolution from `neighbour_rows` int32 [M, 27] of the parents.

    forward int32 [8, M, 8]: rows of the parents read by (child, parent, tap), M where absent.
    backward int32 [M, 64]: rows of the child-major result [8 * M] that read parent m through
    (child, tap), 8 * M where absent.
    """
    parents = rows.shape[0]
    neighbour, _ = upsample_taps()
    neighbour = neighbour.to(rows.device)
    forward = rows[:, neighbour.view(-1)].view(parents, 8, 8).transpose(0, 1).contiguous()
    reader = rows[:, KERNEL_VOLUME - 1 - neighbour.view(-1)].view(parents, 8, 8)  # mirrored offset
    child = torch.arange(8, dtype=torch.int32, device=rows.device)[None, :, None]
    backward = torch.where(reader == parents, 8 * parents, child * parents + reader)
    return forward, backward.to(torch.int32).reshape(parents, 64)

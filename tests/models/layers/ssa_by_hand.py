"""Spatial Sparse Attention written again from the paper: loops over tokens, cells and blocks.

Knows coordinates and weights only: no plan, no grid, no kernel of this project.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Place = tuple[int, ...]  # (sample, x, y, z) of a voxel, a cell or a block
BLOCK = WINDOW = 8


@dataclass(frozen=True)
class Sizes:
    heads: int
    kv_heads: int
    head_dim: int
    top_k: int
    cell: int
    shift: int = 0


def attention_by_hand(w: Weights, x: Tensor, coords: Tensor, sizes: Sizes) -> Tensor:
    """Output of the layer for x [N, C] at coords [N, 4]."""
    gates = torch.sigmoid(x @ w["gate.0.weight"].t())  # [N, 3]
    branches = branches_by_hand(w, x, coords, sizes)
    mixed = sum(gates[:, i, None, None] * branch for i, branch in enumerate(branches))
    assert isinstance(mixed, Tensor)
    return mixed.flatten(1) @ w["proj_o.weight"].t()


def branches_by_hand(w: Weights, x: Tensor, coords: Tensor, sizes: Sizes) -> list[Tensor]:
    """Compression, selection, window, each [N, H, D]."""
    q = (x @ w["proj_q.weight"].t()).view(len(x), sizes.heads, sizes.head_dim)
    k = (x @ w["proj_k.weight"].t()).view(len(x), sizes.kv_heads, sizes.head_dim)
    v = (x @ w["proj_v.weight"].t()).view(len(x), sizes.kv_heads, sizes.head_dim)
    if "q_rms_norm.gamma" in w:
        q, k = (
            t / t.square().mean(-1, keepdim=True).sqrt() * w[f"{name}_rms_norm.gamma"]
            for name, t in (("q", q), ("k", k))
        )
    voxels = [tuple(row) for row in coords.tolist()]
    cells = members(voxels, lambda c: c // sizes.cell)
    blocks = members(voxels, lambda c: c // BLOCK)
    windows = members(voxels, lambda c: (c + sizes.shift) // WINDOW)
    table = w["intra_block_pe"]
    placed = [
        k[i].flatten() + table[tuple(c % sizes.cell for c in place[1:])]
        for i, place in enumerate(voxels)
    ]
    placed_k = torch.stack(placed) if placed else k.flatten(1)
    k_cmp = compress(w, "compression_key", placed_k, voxels, cells)
    v_cmp = compress(w, "compression_value", v.flatten(1), voxels, cells)

    rows: list[list[Tensor]] = [[], [], []]
    share = sizes.heads // sizes.kv_heads
    for i, place in enumerate(voxels):
        outs: list[list[Tensor]] = [[], [], []]
        for g in range(sizes.kv_heads):
            mine = q[i, g * share : (g + 1) * share]  # [H / G, D]
            part = slice(g * sizes.head_dim, (g + 1) * sizes.head_dim)
            visible = [cell for cell in cells if cell[0] == place[0]]
            keys = torch.stack([k_cmp[cell][part] for cell in visible])
            values = torch.stack([v_cmp[cell][part] for cell in visible])
            shares = softmax(mine, keys)  # [H / G, cells]
            outs[0].append(shares @ values)
            chosen = best_blocks(shares.sum(0).tolist(), visible, sizes)
            read = [j for block in chosen for j in blocks[block]]
            outs[1].append(softmax(mine, k[read, g]) @ v[read, g])
            window = (place[0], *((c + sizes.shift) // WINDOW for c in place[1:]))
            near = windows[window]
            outs[2].append(softmax(mine, k[near, g]) @ v[near, g])
        for branch, out in zip(rows, outs, strict=True):
            branch.append(torch.cat(out))
    return [torch.stack(branch) for branch in rows]


def softmax(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.softmax(queries @ keys.t() / queries.shape[1] ** 0.5, dim=1)


def best_blocks(shares: list[float], cells: list[Place], sizes: Sizes) -> list[Place]:
    score: dict[Place, float] = {}
    for share, cell in zip(shares, cells, strict=True):
        block = (cell[0], *(c * sizes.cell // BLOCK for c in cell[1:]))
        score[block] = score.get(block, 0.0) + share
    return sorted(score, key=lambda block: (-score[block], block))[: sizes.top_k]


def members(voxels: list[Place], down: Callable[[int], int]) -> dict[Place, list[int]]:
    found: dict[Place, list[int]] = {}
    for i, (sample, *xyz) in enumerate(voxels):
        found.setdefault((sample, *(down(c) for c in xyz)), []).append(i)
    return found


# --- compression ---------------------------------------------------------------------------------


def compress(
    w: Weights, name: str, x: Tensor, voxels: list[Place], cells: dict[Place, list[int]]
) -> dict[Place, Tensor]:
    """One vector per cell, from x [N, C]."""
    w = {key.removeprefix(f"{name}."): value for key, value in w.items() if key.startswith(name)}
    if "act_layers.0.conv.kernel" in w:  # "linear"
        h = F.silu(x @ w["act_layers.0.conv.kernel"] + w["act_layers.0.conv.bias"])
        return {cell: h[rows].mean(0) for cell, rows in cells.items()}
    h = F.silu(group_norm(w, "act_layers.0", x, [v[0] for v in voxels]))
    pooled = {cell: h[rows].mean(0) for cell, rows in cells.items()}
    pooled = convolve(w, "out_layers.0.conv", pooled)
    normed = group_norm(
        w, "out_layers.1", torch.stack([*pooled.values()]), [cell[0] for cell in pooled]
    )
    pooled = dict(zip(pooled, F.silu(normed), strict=True))
    pooled = convolve(w, "out_layers.3.conv", pooled)
    return {cell: pooled[cell] + x[rows].mean(0) for cell, rows in cells.items()}


def group_norm(w: Weights, name: str, x: Tensor, samples: list[int]) -> Tensor:
    """32 groups of consecutive channels, statistics over all rows of a sample."""
    out = torch.zeros_like(x)
    for sample in set(samples):
        rows = [i for i, s in enumerate(samples) if s == sample]
        grouped = x[rows].view(len(rows), 32, -1)
        mean = grouped.mean((0, 2), keepdim=True)
        variance = (grouped - mean).square().mean((0, 2), keepdim=True)
        normed = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1)
        out = out.index_put((torch.tensor(rows),), normed)
    return out * w[f"{name}.weight"] + w[f"{name}.bias"]


def convolve(w: Weights, name: str, cells: dict[Place, Tensor]) -> dict[Place, Tensor]:
    """Kernel entry k reads the cell at (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1), if it exists."""
    kernel, bias = w[f"{name}.kernel"], w[f"{name}.bias"]
    out = {}
    for b, x, y, z in cells:
        total = bias
        for dz, dy, dx in itertools.product(range(3), repeat=3):
            near = cells.get((b, x + dx - 1, y + dy - 1, z + dz - 1))
            if near is not None:
                total = total + near @ kernel[dx + 3 * dy + 9 * dz]
        out[b, x, y, z] = total
    return out

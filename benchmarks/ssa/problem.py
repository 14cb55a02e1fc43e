"""Inputs whose queries choose blocks in a given manner, and what they then chose.

Uniformly random blocks hide what real models do, so there are three patterns, all made by inputs
alone (nothing is forced into the kernels):

  local   queries and cells carry waves of their position: near blocks win, and neighbours agree
  random  independent noise, logits of standard deviation 4: neighbours choose different blocks
  hub     the same, but half of the queries also look for four blocks of their sample
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.ssa.roofline import Sizes
from kernels.ssa import SSAPlan

PATTERNS = ("local", "random", "hub")
SPREAD = 4.0  # standard deviation of the logits of `random`
REACH = 8.0  # latent voxels over which the waves of `local` agree
NEAR = 12.0  # logit of a query and a cell in the same place
HUBS, HUB_LOGIT = 4, 24.0
UNION = 4  # queries whose blocks are joined into one list, for the figure of that name


@dataclass(frozen=True)
class Shape:
    """Heads of an attention layer."""

    heads: int
    width: int
    groups: int = 2

    def __str__(self) -> str:
        return f"{self.heads}×{self.width}"


@dataclass(frozen=True)
class Problem:
    """All that one call of the attention takes, and the gradient of its result."""

    plan: SSAPlan
    q: Tensor  # [N, H, D]
    k: Tensor  # [N, G, D]
    v: Tensor
    k_cmp: Tensor  # [M, G, D]
    v_cmp: Tensor
    gates: Tensor  # [N, 3]
    grad: Tensor  # [N, H, D]
    top_k: int

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What has gradients, in the order of `spatial_sparse_attention`."""
        return self.q, self.k, self.v, self.k_cmp, self.v_cmp, self.gates

    def to(self, dtype: torch.dtype) -> Problem:
        """Rounded to another type."""
        names = ("q", "k", "v", "k_cmp", "v_cmp", "gates", "grad")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def nbytes(self) -> int:
        """Of the tensors that a forward and a backward pass read."""
        return sum(x.nbytes for x in (*self.inputs, self.grad))


def make_problem(
    plan: SSAPlan, coords: Tensor, shape: Shape, pattern: str, top_k: int,
    dtype: torch.dtype, seed: int = 0,
) -> Problem:  # fmt: skip
    """A problem on the device of `coords` [N, 4], the voxels of the plan."""
    device = coords.device
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    tokens, cells = plan.tokens, plan.num_cells
    h, g, d = shape.heads, shape.groups, shape.width
    if pattern == "local":
        place = coords[:, 1:].float()
        waves = noise(3, d // 2) / REACH
        scale = (NEAR * d**0.5) ** 0.5
        q = scale * _waves(place, waves)[:, None] + 0.1 * noise(tokens, h, d)
        k_cmp = scale * _waves(_cell_means(place, plan), waves)[:, None] + 0.1 * noise(cells, g, d)
    elif pattern in PATTERNS:
        q, k_cmp = SPREAD**0.5 * noise(tokens, h, d), SPREAD**0.5 * noise(cells, g, d)
        if pattern == "hub":
            toward = torch.nn.functional.normalize(noise(g, d), dim=1)
            strength = (HUB_LOGIT * d**0.5) ** 0.5 * toward
            keen = torch.rand(tokens, 1, 1, generator=generator, device=device) < 0.5
            q += keen * strength.repeat_interleave(h // g, dim=0)
            k_cmp += _of_hubs(plan)[:, None, None] * strength
    else:
        raise ValueError(f"pattern: got {pattern!r}, it must be one of {PATTERNS}")
    problem = Problem(
        plan, q, noise(tokens, g, d), noise(tokens, g, d), k_cmp, noise(cells, g, d),
        noise(tokens, 3).sigmoid(), noise(tokens, h, d), top_k,
    )  # fmt: skip
    return problem.to(dtype)


def sizes_of(problem: Problem, blocks_NGk: Tensor) -> Sizes:
    """What the roofline needs. Reads back from the GPU."""
    plan, q = problem.plan, problem.q
    per_sample = plan.cu_seqlens.long().diff()
    window = plan.near.starts.long().diff()
    return Sizes(
        tokens=plan.tokens, cells=plan.num_cells, heads=q.shape[1],
        groups=problem.k.shape[1], width=q.shape[2],
        compression_pairs=float((per_sample * plan.cells.of_sample.long().diff()).sum()),
        selection_pairs=keys_read(blocks_NGk, plan) * plan.tokens,
        window_pairs=float(window.square().sum()),
        full_pairs=float(per_sample.square().sum()),
        top_k=problem.top_k, element=q.element_size(),
    )  # fmt: skip


def keys_read(blocks_NGk: Tensor, plan: SSAPlan) -> float:
    """Tokens in the blocks that a query chose, mean over queries and groups."""
    length = plan.blocks.starts.long().diff()
    of_slot = torch.where(blocks_NGk < 0, 0, length[blocks_NGk.clamp(min=0).long()])
    return float(of_slot.sum()) / max(blocks_NGk.shape[0] * blocks_NGk.shape[1], 1)


def union_factor(blocks_NGk: Tensor, plan: SSAPlan, queries: int = UNION) -> float:
    """Blocks that so many consecutive queries chose together, over those that one chose."""
    tiles = plan.samples[0].bounds.long()
    step = torch.arange(0, int((tiles[:, 1] - tiles[:, 0]).max()), queries, device=tiles.device)
    first = (tiles[:, :1] + step).flatten()  # tiles of the plan cut into tiles of `queries`
    behind = tiles[:, 1:].expand(-1, len(step)).flatten()
    row = first[:, None] + torch.arange(queries, device=tiles.device)
    there = row < behind[:, None]
    chosen = blocks_NGk[row.clamp(max=plan.tokens - 1)]  # [tiles, queries, G, k]
    chosen = torch.where(there[:, :, None, None], chosen, -1)
    joined = chosen.permute(0, 2, 1, 3).flatten(2).sort(dim=2).values
    fresh = torch.ones_like(joined, dtype=torch.bool)
    fresh[..., 1:] = joined[..., 1:] != joined[..., :-1]
    whole = there.all(1)  # a tile with fewer queries would look better than it is
    together = (fresh & (joined >= 0))[whole].sum()
    alone = (chosen >= 0)[whole].sum() / queries
    return float(together / alone.clamp(min=1))


def most_popular(blocks_NGk: Tensor, plan: SSAPlan) -> float:
    """Share of the queries of its sample and group that chose the most popular block."""
    groups, count = blocks_NGk.shape[1], plan.blocks.count
    group = torch.arange(groups, device=blocks_NGk.device)[:, None]
    place = torch.where(blocks_NGk < 0, groups * count, blocks_NGk + group * count)
    chosen = torch.bincount(place.flatten().long(), minlength=groups * count + 1)[:-1]
    tokens = plan.cu_seqlens.long().diff()
    of_block = tokens.repeat_interleave(plan.blocks.of_sample.long().diff())
    return float((chosen.view(groups, count) / of_block).max())


def _waves(place: Tensor, waves: Tensor) -> Tensor:
    """Unit vectors whose product falls from 1 to about 0 over REACH voxels, [n, D]."""
    angle = place @ waves
    return torch.cat([angle.cos(), angle.sin()], dim=1) / waves.shape[1] ** 0.5


def _cell_means(values: Tensor, plan: SSAPlan) -> Tensor:
    """Mean over the tokens of each cell, [M, ...]."""
    lengths = plan.cells.starts.long().diff()
    total = values.new_zeros(plan.num_cells, values.shape[1])
    total.index_add_(0, plan.cells.of_row.long(), values)
    return total / lengths[:, None]


def _of_hubs(plan: SSAPlan) -> Tensor:
    """Which cells lie in a hub: a few blocks spread over each sample. bool [M]."""
    first, behind = plan.blocks.of_sample[:-1].long(), plan.blocks.of_sample[1:].long()
    part = torch.arange(HUBS, device=first.device)
    hubs = first[:, None] + (behind - first)[:, None] * (2 * part + 1) // (2 * HUBS)
    hubs = hubs[(behind > first)[:, None].expand_as(hubs)]
    return torch.isin(plan.block_of_cell.long(), hubs)

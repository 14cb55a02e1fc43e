"""Spatial Sparse Attention, the definition: dense, slow, and right.

Direct3D-S2, section 3.3. Every query attends in three ways, each an ordinary softmax attention
over another set of keys, and a gate per branch adds them up:

  compression  to one compressed key per occupied cell of its sample: everything, coarsely
  selection    to all tokens of the top-k blocks that the compression branch looked at most
  window       to the tokens of its own (shifted) window: the neighbourhood, finely

Any dtype, CPU and GPU, differentiable; the choice of blocks is not differentiated. Needs memory
quadratic in the tokens of a sample. The other backends are tested against this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ssa.plan import SSAPlan


def ssa_reference(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, k_cmp_MGD: Tensor, v_cmp_MGD: Tensor,
    gates_N3: Tensor, plan: SSAPlan, top_k: int,
) -> Tensor:  # fmt: skip
    """gates[:, 0]·compression + gates[:, 1]·selection + gates[:, 2]·window, [N, H, D]."""
    compressed, lse_NH = compression(q_NHD, k_cmp_MGD, v_cmp_MGD, plan)
    blocks = select_blocks(q_NHD, k_cmp_MGD, lse_NH, plan, top_k)
    selected = selection(q_NHD, k_NGD, v_NGD, blocks, plan)
    near = window(q_NHD, k_NGD, v_NGD, plan)
    branches = torch.stack([compressed, selected, near], dim=1)  # [N, 3, H, D]
    return (gates_N3[:, :, None, None] * branches).sum(1)


def compression(
    q_NHD: Tensor, k_cmp_MGD: Tensor, v_cmp_MGD: Tensor, plan: SSAPlan
) -> tuple[Tensor, Tensor]:
    """Attention over the compressed keys of the own sample: [N, H, D], natural LSE [N, H]."""
    allowed = _sample_of_row(plan)[:, None] == _sample_of_cell(plan)[None]  # [N, M]
    return _masked(q_NHD, k_cmp_MGD, v_cmp_MGD, allowed[:, None].expand(-1, k_cmp_MGD.shape[1], -1))


@torch.no_grad()
def select_blocks(
    q_NHD: Tensor, k_cmp_MGD: Tensor, lse_NH: Tensor, plan: SSAPlan, top_k: int
) -> Tensor:
    """The blocks that each token's KV group chooses: int64 [N, G, top_k], ascending, -1 behind.

    Score of a block: softmax probability of the compression branch, summed over the query heads of
    a group and over the cells in the block. Equal scores: the lower block number wins. Numbers
    count the blocks of the whole batch; only those of the own sample can be chosen.
    """
    score = torch.exp(_logits(q_NHD, k_cmp_MGD) - lse_NH[:, :, None])  # [N, H, M]
    groups = k_cmp_MGD.shape[1]
    score = score.unflatten(1, (groups, -1)).sum(2)  # [N, G, M]
    of_block = score.new_zeros(*score.shape[:2], plan.blocks.count)
    of_block.index_add_(2, plan.block_of_cell.long(), score)
    foreign = _sample_of_row(plan)[:, None] != _sample_of_block(plan)[None]  # [N, blocks]
    of_block.masked_fill_(foreign[:, None], -1.0)
    best = of_block.sort(dim=2, descending=True, stable=True).indices[:, :, :top_k]
    chosen = torch.where(of_block.gather(2, best) == -1.0, plan.blocks.count, best)
    missing = top_k - chosen.shape[2]
    chosen = torch.nn.functional.pad(chosen, (0, missing), value=plan.blocks.count)
    chosen = chosen.sort(dim=2).values
    return torch.where(chosen == plan.blocks.count, -1, chosen)


def selection(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, blocks_NGk: Tensor, plan: SSAPlan
) -> Tensor:
    """Attention over all tokens of the chosen blocks, [N, H, D]."""
    block_of_row = plan.blocks.of_row.long()
    allowed = torch.stack(
        [(ids[:, None, :] == block_of_row[None, :, None]).any(2) for ids in blocks_NGk.unbind(1)], 1
    )  # [N, G, N]
    return _masked(q_NHD, k_NGD, v_NGD, allowed)[0]


def window(q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, plan: SSAPlan) -> Tensor:
    """Attention over the tokens of the own window, [N, H, D]."""
    table = plan.near
    lengths = table.starts.long().diff()
    number = torch.repeat_interleave(torch.arange(table.count, device=lengths.device), lengths)
    of_row = number[table.inverse]
    allowed = of_row[:, None] == of_row[None]  # [N, N]
    return _masked(q_NHD, k_NGD, v_NGD, allowed[:, None].expand(-1, k_NGD.shape[1], -1))[0]


def _masked(q: Tensor, k: Tensor, v: Tensor, allowed_NGM: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention where allowed [N, G, M]: [N, H, D] and natural LSE [N, H]."""
    share = q.shape[1] // k.shape[1]
    allowed = allowed_NGM.repeat_interleave(share, dim=1)  # [N, H, M]
    logits = _logits(q, k).masked_fill(~allowed, float("-inf"))
    # Values that are masked out must not count, not even a NaN: 0 · NaN would.
    weight = torch.softmax(logits, dim=2)
    wide = v.repeat_interleave(share, dim=1)
    clean = torch.where(torch.isfinite(wide), wide, 0.0)
    out = torch.einsum("nhm,mhd->nhd", weight, clean)
    broken = (~torch.isfinite(wide)).any(2)  # [M, H]
    hit = (allowed & broken.T[None]).any(2)
    out = torch.where(hit[:, :, None], float("nan"), out)
    return out, torch.logsumexp(logits, dim=2)


def _logits(q: Tensor, k: Tensor) -> Tensor:
    """q·k / sqrt(D) with every KV head serving its query heads, [N, H, M]."""
    share = q.shape[1] // k.shape[1]
    return torch.einsum("nhd,mhd->nhm", q, k.repeat_interleave(share, dim=1)) * q.shape[2] ** -0.5


def _sample_of_row(plan: SSAPlan) -> Tensor:
    return _number(plan.cu_seqlens)


def _sample_of_block(plan: SSAPlan) -> Tensor:
    return _number(plan.blocks.of_sample)


def _sample_of_cell(plan: SSAPlan) -> Tensor:
    return _number(plan.cells.of_sample)


def _number(starts: Tensor) -> Tensor:
    """Which run each member belongs to, from the first member of each run."""
    lengths = starts.long().diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=starts.device), lengths)

"""Scores and the best k of them: ids equal to the definition's, ties included."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernels.ssa import SSAPlan, cpu, reference
from kernels.ssa.gpu import topk
from tests.kernels.ssa.clouds import inputs, plan_of, random_voxels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = {cell: plan_of(random_voxels([70, 0, 5, 90], 20), cell, batch_size=4) for cell in (4, 8)}


def both(plan: SSAPlan, top_k: int, heads: int = 4, groups: int = 2) -> list[torch.Tensor]:
    q, _, _, k_cmp, v_cmp, _ = (t.detach().float() for t in inputs(plan, heads, groups))
    lse = reference.compression(q.double(), k_cmp.double(), v_cmp.double(), plan)[1]
    wanted = reference.select_blocks(q.double(), k_cmp.double(), lse, plan, top_k)
    parts = (t.float().to(DEVICE) for t in (q, k_cmp, lse))
    got = topk.best_blocks(*parts, plan.to(DEVICE), top_k)
    return [
        wanted.int(),
        got.cpu(),
        cpu.select_blocks(q.double(), k_cmp.double(), lse, plan, top_k),
    ]


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize("top_k", [1, 3, 8, 40])
def test_the_definition_s_blocks(cell: int, top_k: int) -> None:
    wanted, triton_s, cpu_s = both(PLANS[cell], top_k)
    assert torch.equal(triton_s, wanted) and torch.equal(cpu_s, wanted)


def test_rows_in_spans_and_queries_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "SPAN", 4)
    monkeypatch.setattr(topk, "SCORES_AT_ONCE", 2000)
    wanted, triton_s, _ = both(PLANS[4], 5)
    assert torch.equal(triton_s, wanted)


def test_blocks_that_reach_over_a_tile_of_cells() -> None:
    """More than 64 cells, 8 in a block: sums are carried from one tile of cells to the next."""
    full = torch.cartesian_prod(torch.arange(1), *[torch.arange(2, 22, 4)] * 3)
    plan = plan_of(torch.cat([full, torch.tensor([[1, 0, 0, 0]])]).int()[_canonical(full)])
    assert plan.num_cells > 64 and plan.blocks.count < plan.num_cells
    wanted, triton_s, _ = both(plan, 3, heads=16, groups=1)
    assert torch.equal(triton_s, wanted)


def _canonical(full: torch.Tensor) -> torch.Tensor:
    from kernels.voxel_order import canonical_key

    return torch.cat([torch.argsort(canonical_key(full)), torch.tensor([len(full)])])


@pytest.mark.parametrize("span", [2, 1024])
def test_equal_scores_choose_the_lower_block(span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "SPAN", span)
    coords = torch.tensor(
        [[b, 8 * i, 8 * j, 3] for b in range(2) for i in range(3) for j in range(3)]
    )
    plan = plan_of(coords)
    q, k = torch.zeros(18, 2, 16), torch.randn(18, 1, 16)
    lse = torch.full((18, 2), float(torch.tensor(9.0).log()))
    blocks = topk.best_blocks(q.to(DEVICE), k.to(DEVICE), lse.to(DEVICE), plan.to(DEVICE), 4)
    assert blocks[:9].unique(dim=0).tolist() == [[[0, 1, 2, 3]]]
    assert blocks[9:].unique(dim=0).tolist() == [[[9, 10, 11, 12]]]

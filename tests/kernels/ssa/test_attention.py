"""Spatial Sparse Attention: the definition against full attention, and the CPU path against it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.ssa import SSAPlan, sort_coords, spatial_sparse_attention
from kernels.ssa.reference import compression, select_blocks
from tests.kernels.ssa.clouds import (
    inputs,
    of_mask,
    one_sample,
    plan_of,
    random_voxels,
    shell,
    torus,
)

BATCH = random_voxels([150, 0, 20, 260])
CASES: dict[str, tuple[Tensor, int]] = {
    "batch": (BATCH, 5),
    "shell": (shell(5.5, 16), 1),
    "torus": (torus(5.0, 2.0, 16), 1),
    "one token": (torch.tensor([[0, 3, 4, 5]]), 1),
    "full block": (of_mask(torch.ones(8, 8, 8, dtype=torch.bool)), 1),
    "one per block": (torch.tensor([[0, 8 * i, 8 * j, 3] for i in range(4) for j in range(4)]), 1),
    "one block per sample": (random_voxels([30, 1, 200], resolution=8), 3),
}


def attend(
    tensors: list[Tensor], plan: SSAPlan, top_k: int, backend: str, gates: Tensor | None = None
) -> Tensor:
    q, k, v, k_cmp, v_cmp = tensors[:5]
    own = tensors[5] if gates is None else gates
    return spatial_sparse_attention(
        q, k, v, k_cmp, v_cmp, own,
        plan=plan, top_k=top_k, backend=backend,  # type: ignore[arg-type]
    )  # fmt: skip


def only(branch: int, plan: SSAPlan) -> Tensor:
    return F.one_hot(torch.tensor(branch), 3).double().expand(plan.tokens, 3)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_with_all_blocks_selection_is_full_attention(name: str, backend: str) -> None:
    coords, samples = CASES[name]
    plan = plan_of(coords, batch_size=samples)
    tensors = inputs(plan)
    got = attend(tensors, plan, plan.blocks.count + 3, backend, only(1, plan))
    q, k, v = (t.transpose(0, 1) for t in tensors[:3])
    for b in range(plan.batch_size):
        rows = slice(plan.cu_seqlens[b], plan.cu_seqlens[b + 1])
        full = F.scaled_dot_product_attention(q[:, rows], k[:, rows], v[:, rows], enable_gqa=True)
        torch.testing.assert_close(got[rows], full.transpose(0, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4), (16, 1)])
@pytest.mark.parametrize(("cell", "shift"), [(4, 0), (4, 4), (8, 0), (8, 4)])
def test_the_cpu_path_is_the_definition(cell: int, shift: int, heads: tuple[int, int]) -> None:
    plan = plan_of(BATCH, cell, shift, batch_size=5)
    compare(plan, inputs(plan, *heads), top_k=3)


@pytest.mark.parametrize("top_k", [1, 8, 40])
@pytest.mark.parametrize("name", CASES)
def test_the_cpu_path_on_shapes(name: str, top_k: int) -> None:
    coords, samples = CASES[name]
    plan = plan_of(coords, batch_size=samples)
    compare(plan, inputs(plan, width=32), top_k)


def compare(plan: SSAPlan, tensors: list[Tensor], top_k: int) -> None:
    """Values and all six gradients of the two backends, in float64."""
    weight = torch.linspace(-1, 1, tensors[0].numel(), dtype=torch.float64).view_as(tensors[0])
    results = []
    for backend in ("reference", "cpu"):
        out = attend(tensors, plan, top_k, backend)
        results.append([out, *torch.autograd.grad((out * weight).sum(), tensors)])
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(BATCH, batch_size=5)
    monkeypatch.setattr("kernels.ssa.cpu.LOGITS_AT_ONCE", 1000)
    compare(plan, inputs(plan), top_k=4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_gradients_by_finite_differences(branch: int, backend: str) -> None:
    plan = plan_of(random_voxels([5, 3], resolution=10), batch_size=2)
    tensors = inputs(plan, heads=2, groups=1, width=2)
    gates = only(branch, plan)
    assert torch.autograd.gradcheck(lambda *t: attend([*t], plan, 2, backend, gates), tensors[:5])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_batch_is_its_samples(backend: str) -> None:
    plan = plan_of(BATCH, batch_size=5)
    tensors = inputs(plan)
    whole = attend(tensors, plan, 3, backend)
    for b in (0, 2, 3):
        part, coords, mine = one_sample(BATCH, plan, tensors, b)
        alone = attend(mine, plan_of(coords), 3, backend)
        torch.testing.assert_close(whole[part], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_another_order_of_the_same_voxels(backend: str) -> None:
    """Sorted by the plan's own helper, the same voxels get the same output per coordinate."""
    coords = shell(6.5, 16)
    plan = plan_of(coords)
    tensors = inputs(plan)
    wanted = attend(tensors, plan, 2, backend)
    mixed = torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))
    again, order = sort_coords(coords[mixed])
    assert torch.equal(again, coords)
    cells = tensors[3:5]  # of cells, which have an order of their own
    rows = [tensors[i][mixed][order] for i in (0, 1, 2, 5)]
    got = attend([*rows[:3], *cells, rows[3]], plan_of(again), 2, backend)
    back = torch.empty_like(got)
    back[order] = got
    assert torch.equal(back, wanted[mixed])


def test_equal_scores_choose_the_lower_block() -> None:
    plan = plan_of(CASES["one per block"][0])
    q = torch.zeros(plan.tokens, 2, 4, dtype=torch.float64)  # every block scores the same
    k = torch.randn(plan.num_cells, 1, 4, dtype=torch.float64)
    _, lse = compression(q, k, k, plan)
    blocks = select_blocks(q, k, lse, plan, 3)
    assert blocks.unique(dim=0).tolist() == [[[0, 1, 2]]]


def test_blocks_are_those_with_the_largest_share_of_attention() -> None:
    """Counted by hand: probabilities of a query's heads, added up per block."""
    plan = plan_of(BATCH, batch_size=5)
    q, _, _, k_cmp, v_cmp, _ = inputs(plan, heads=4, groups=2)
    _, lse = compression(q, k_cmp, v_cmp, plan)
    blocks = select_blocks(q, k_cmp, lse, plan, 2)
    cells = plan.cells.of_sample.tolist()
    sample_of = BATCH[:, 0].tolist()
    for t in range(0, plan.tokens, 37):
        mine = range(cells[sample_of[t]], cells[sample_of[t] + 1])
        for g in range(2):
            share: dict[int, float] = {}
            for h in (2 * g, 2 * g + 1):
                logits = torch.stack([(q[t, h] * k_cmp[c, g]).sum() / 4 for c in mine])
                for c, p in zip(mine, logits.softmax(0).tolist(), strict=True):
                    block = int(plan.block_of_cell[c])
                    share[block] = share.get(block, 0.0) + p
            best = sorted(sorted(share, key=lambda b: -share[b])[:2])
            assert blocks[t, g].tolist() == best + [-1] * (2 - len(best))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_nan_stays_where_it_belongs(backend: str) -> None:
    plan = plan_of(BATCH, batch_size=5)
    clean = [t.detach() for t in inputs(plan)]
    good = attend(clean, plan, 3, backend)
    row = plan.cu_seqlens[3] + 7
    for number in range(5):
        broken = [t.clone() for t in clean]
        at = int(row) if number < 3 else int(plan.cells.of_sample[3])
        broken[number][at, 0, 0] = float("nan")
        out = attend(broken, plan, 3, backend)
        hit = out.isnan().flatten(1).any(1)
        assert hit.any()
        others = torch.ones(plan.tokens, dtype=torch.bool)
        others[plan.cu_seqlens[3] : plan.cu_seqlens[4]] = False
        assert torch.equal(out[others], good[others])
        if number == 0:
            assert hit.nonzero()[:, 0].tolist() == [at]


def test_an_empty_batch_is_an_empty_result() -> None:
    plan = plan_of(torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    assert attend(inputs(plan), plan, 4, "auto").shape == (0, 4, 16)


def test_complaints() -> None:
    plan = plan_of(shell(5.5, 16))
    good = inputs(plan)

    def wrong(number: int, tensor: Tensor, top_k: int = 2) -> list[Tensor]:
        tensors = list(good)
        tensors[number] = tensor
        return tensors

    n, m = plan.tokens, plan.num_cells
    cases = [
        (wrong(0, good[0][:-1]), f"q_NHD: got shape .*must be .{n}, 4, 16"),
        (wrong(1, good[1][:, 0]), "k_NGD: got shape .*3 dimensions"),
        (wrong(2, good[2].float()), "v_NGD: got torch.float32"),
        (wrong(3, good[3][:-1]), f"k_cmp_MGD: got shape .*must be .{m}, 2, 16"),
        (wrong(4, good[4][..., :-1]), "v_cmp_MGD: got shape"),
        (wrong(5, good[5][:, :2]), "gates_N3: got shape"),
        (wrong(5, good[5].to("meta")), "gates_N3: is on meta, the plan is on cpu"),
    ]
    for tensors, message in cases:
        with pytest.raises(ValueError, match=message):
            attend(tensors, plan, 2, "cpu")
    three = inputs(plan, heads=3, groups=2)
    with pytest.raises(ValueError, match="2 KV heads, they must divide the 3 query heads"):
        attend(three, plan, 2, "cpu")
    with pytest.raises(ValueError, match="top_k: got 0"):
        attend(good, plan, 0, "cpu")
    with pytest.raises(ValueError, match="backend: got 'gpu'"):
        attend(good, plan, 2, "gpu")

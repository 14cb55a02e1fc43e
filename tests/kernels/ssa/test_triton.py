"""The Triton kernels in fp32 against the definition in float64; interpreted without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("triton")

from kernels.ssa import SSAPlan, reference, spatial_sparse_attention
from kernels.ssa.gpu import branches
from kernels.ssa.tables import QUERY_TILES
from tests.kernels.ssa.clouds import (
    inputs,
    of_mask,
    one_sample,
    plan_of,
    random_voxels,
    shell,
    torus,
)

OUTPUT, GRADIENT = 2e-6, 5e-6  # relative L2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = random_voxels([40, 0, 3, 50], resolution=16)
SPARSE_GRID = torch.tensor([[0, 8 * i, 8 * j, 3] for i in range(4) for j in range(4)])
CELLS = torch.cartesian_prod(torch.tensor([0, 8, 16]), *[torch.arange(4)] * 3)
CELLS = torch.stack([CELLS[:, 0] * 0, CELLS[:, 0] + CELLS[:, 1], CELLS[:, 2], CELLS[:, 3]], 1)
CASES: dict[str, tuple[Tensor, int]] = {
    "batch": (BATCH, 5),
    "sphere": (shell(3.5, 16), 1),
    "torus": (torus(4.0, 1.0, 16), 1),
    "one token": (torch.tensor([[0, 3, 4, 5]]), 1),
    "full block": (of_mask(torch.ones(8, 8, 8, dtype=torch.bool)), 1),
    "one per block": (SPARSE_GRID, 1),
    "blocks of exactly one tile": (CELLS, 1),
    "one block per sample": (random_voxels([30, 1, 60], resolution=8), 3),
}


def error(got: Tensor, wanted: Tensor) -> float:
    wanted = wanted.detach()
    # a gradient can be zero by cancellation, as that of a query with a single key
    return float((got.detach().double().cpu() - wanted).norm() / wanted.norm().clamp(min=0.1))


def rounded(plan: SSAPlan, heads: int = 4, groups: int = 2, width: int = 16) -> list[Tensor]:
    """float64 inputs whose numbers are exact in fp32."""
    return [
        t.detach().float().double().requires_grad_() for t in inputs(plan, heads, groups, width)
    ]


def single(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().float().to(DEVICE).requires_grad_() for t in tensors]


def attend(tensors: list[Tensor], plan: SSAPlan, top_k: int, backend: str) -> Tensor:
    q, k, v, k_cmp, v_cmp, gates = tensors
    return spatial_sparse_attention(
        q, k, v, k_cmp, v_cmp, gates,
        plan=plan, top_k=top_k, backend=backend,  # type: ignore[arg-type]
    )  # fmt: skip


def compare(plan: SSAPlan, wide: list[Tensor], top_k: int) -> None:
    """The result and its six gradients."""
    narrow = single(wide)
    wanted = attend(wide, plan, top_k, "reference")
    got = attend(narrow, plan.to(DEVICE), top_k, "triton")
    assert error(got, wanted) < OUTPUT
    weight = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    grads = torch.autograd.grad(got, narrow, weight.float().to(DEVICE))
    for have, want in zip(grads, torch.autograd.grad(wanted, wide, weight), strict=True):
        assert error(have, want) < GRADIENT


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    coords, samples = CASES[name]
    plan = plan_of(coords, batch_size=samples)
    heads = (4, 2) if plan.tokens < 200 else (2, 1)  # the interpreter takes its time
    compare(plan, rounded(plan, *heads), top_k=2)


@pytest.mark.parametrize(
    ("heads", "groups", "width", "cell", "shift", "top_k"),
    [
        (4, 1, 16, 8, 4, 3),  # cells are blocks
        (8, 1, 32, 4, 4, 1),
        (3, 3, 16, 4, 0, 40),  # one head per KV head; more blocks wanted than there are
        (5, 1, 16, 8, 0, 2),  # a group that is no power of two
        (40, 1, 16, 4, 0, 2),  # more heads in a group than one program takes
        (16, 1, 64, 4, 4, 2),
    ],
)
def test_heads_cells_windows(
    heads: int, groups: int, width: int, cell: int, shift: int, top_k: int
) -> None:
    plan = plan_of(BATCH, cell, shift, batch_size=5)
    compare(plan, rounded(plan, heads, groups, width), top_k)


@pytest.mark.long
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (32, 2), (16, 2), (64, 1)])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("cell", [4, 8])
def test_every_width(heads: tuple[int, int], width: int, cell: int) -> None:
    plan = plan_of(random_voxels([40, 20, 0, 90], 20), cell, 4, batch_size=5)
    compare(plan, rounded(plan, *heads, width), top_k=8)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_every_branch_alone(branch: int) -> None:
    plan = plan_of(BATCH, shift=4, batch_size=5)
    wide = rounded(plan)
    wide[5] = F.one_hot(torch.tensor(branch), 3).double().repeat(plan.tokens, 1).requires_grad_()
    compare(plan, wide, top_k=2)


def test_full_attention_when_every_block_is_chosen() -> None:
    plan = plan_of(BATCH, batch_size=5)
    q, k, v, *_ = rounded(plan)
    q3, k3, v3 = single([q, k, v])
    own = [torch.arange(*plan.blocks.of_sample[b : b + 2].tolist()) for b in BATCH[:, 0].tolist()]
    width = max(map(len, own))
    rows = [F.pad(numbers, (0, width - len(numbers)), value=-1) for numbers in own]
    blocks = torch.stack(rows)[:, None].expand(-1, 2, -1).int().contiguous()
    out, _ = branches.selection_forward(q3, k3, v3, blocks.to(DEVICE), plan.to(DEVICE))
    for b in range(plan.batch_size):
        part = slice(plan.cu_seqlens[b], plan.cu_seqlens[b + 1])
        one = (t[part].transpose(0, 1) for t in (q, k, v))
        full = F.scaled_dot_product_attention(*one, enable_gqa=True).transpose(0, 1)
        torch.testing.assert_close(out[part].cpu().double(), full.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [16, 2048])
def test_one_block_that_everybody_chose(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work items of few queries, whose sums are added up; twice the same bits."""
    monkeypatch.setattr(branches, "READERS_SHARE", share)
    plan = plan_of(random_voxels([120], resolution=16))
    wide = rounded(plan)
    q, k, v = wide[:3]
    blocks = torch.full((plan.tokens, 2, 2), -1, dtype=torch.int32)
    blocks[..., 0] = 3
    wanted = reference.selection(q, k, v, blocks.long(), plan)
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    grad = grad.to(DEVICE)
    q3, k3, v3 = (t.detach() for t in single([q, k, v]))
    gpu_plan, blocks = plan.to(DEVICE), blocks.to(DEVICE)
    out, lse = branches.selection_forward(q3, k3, v3, blocks, gpu_plan)
    first = branches.selection_backward(grad, q3, k3, v3, out, lse, blocks, gpu_plan)
    for got, want in zip(
        (out, *first),
        (wanted, *torch.autograd.grad(wanted, (q, k, v), grad.cpu().double())),
        strict=True,
    ):
        assert error(got, want) < GRADIENT
    again = branches.selection_backward(grad, q3, k3, v3, out, lse, blocks, gpu_plan)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_work_items_of_the_dense_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.ssa.tables.STATIC_SHARE", 16)
    plan = plan_of(BATCH, batch_size=5)
    assert plan.compression.readers.item_tile.shape[1] > len(plan.compression.readers.tiles)
    compare(plan, rounded(plan), top_k=2)


def test_a_batch_is_its_samples() -> None:
    plan = plan_of(BATCH, batch_size=5)
    tensors = single(rounded(plan))
    whole = attend(tensors, plan.to(DEVICE), 3, "triton")
    for b in (0, 2, 3):
        part, coords, mine = one_sample(BATCH, plan, tensors, b)
        alone = attend(mine, plan_of(coords).to(DEVICE), 3, "triton")
        torch.testing.assert_close(whole[part], alone, rtol=1e-5, atol=1e-6)


def test_two_runs_give_the_same_bits() -> None:
    plan = plan_of(BATCH, batch_size=5).to(DEVICE)
    results = []
    for _ in range(2):
        tensors = single(rounded(plan_of(BATCH, batch_size=5)))
        out = attend(tensors, plan, 2, "triton")
        results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_stays_where_it_belongs() -> None:
    plan = plan_of(BATCH, batch_size=5)
    clean = [t.detach() for t in single(rounded(plan, 2, 1))]
    good = attend(clean, plan.to(DEVICE), 2, "triton")
    row, behind = plan.cu_seqlens[3:5].tolist()
    for number in range(5):
        broken = [t.clone() for t in clean]
        at = row + 7 if number < 3 else int(plan.cells.of_sample[3])
        broken[number][at, 0, 0] = float("nan")
        out = attend(broken, plan.to(DEVICE), 2, "triton")
        hit = out.isnan().flatten(1).any(1)
        assert hit.any()
        assert torch.equal(out[:row], good[:row]) and torch.equal(out[behind:], good[behind:])
        if number == 0:
            assert hit.nonzero()[:, 0].tolist() == [at]


def test_no_result_is_left_unwritten() -> None:
    """Fresh memory is full of NaN."""
    plan = plan_of(BATCH, shift=4, batch_size=5)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3).isnan().all()
        compare(plan, rounded(plan, 5, 1), top_k=2)
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_the_kernels_do_not_take() -> None:
    plan = plan_of(torch.tensor([[0, 1, 2, 3]]))
    with pytest.raises(ValueError, match="got torch.float64, the Triton kernels take"):
        attend(inputs(plan), plan, 1, "triton")
    with pytest.raises(ValueError, match="head dimension 24"):
        attend([t.float() for t in inputs(plan, width=24)], plan, 1, "triton")
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="bfloat16, which Triton's interpreter"):
            attend([t.bfloat16() for t in inputs(plan)], plan, 1, "triton")


def test_tiles_of_every_size_are_used() -> None:
    """The cases above cover each number of queries per program."""
    from kernels.ssa.gpu.shapes import chosen_heads, dense_heads

    k = torch.empty(1, 1, 16)
    queries = [torch.empty(1, heads, 16) for heads in (2, 8, 40)]
    packed = [pack(q, k) for q in queries for pack in (chosen_heads, dense_heads)]
    assert {heads.queries for heads in packed} == set(QUERY_TILES)

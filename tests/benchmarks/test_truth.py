"""The benchmark's float64 truth is the definition, and its checks notice wrong kernels."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ssa import correctness, truth
from benchmarks.ssa.bench import Bench, tiny_bench
from benchmarks.ssa.problem import Shape, make_problem, union_factor
from kernels.ssa import SSAPlan, cpu, reference, spatial_sparse_attention

SHAPE = Shape(4, 16)
NAMES = ("q", "k", "v", "k_cmp", "v_cmp", "gates")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return tiny_bench()


@pytest.mark.parametrize(("cell", "pattern"), [(4, "hub"), (8, "local")])
def test_some_rows_of_the_definition(
    bench: Bench, cell: int, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "GATHERED", 30_000)  # several parts
    plan, coords = bench.plan(("8k", "128k"), cell)
    problem = make_problem(plan, coords, SHAPE, pattern, 3, torch.float64)
    leaves = [x.requires_grad_() for x in problem.inputs]
    out = spatial_sparse_attention(*leaves, plan=plan, top_k=3, backend="reference")
    lse = reference.compression(leaves[0], leaves[3], leaves[4], plan)[1]
    blocks = reference.select_blocks(leaves[0], leaves[3], lse, plan, 3)
    rows = torch.arange(5, plan.tokens, 3)
    grad = torch.zeros_like(problem.grad)
    grad[rows] = problem.grad[rows]
    wanted = dict(zip(NAMES, torch.autograd.grad(out, leaves, grad), strict=True))
    detached = {name: getattr(problem, name).detach() for name in NAMES}
    found = truth.truth(dataclasses.replace(problem, **detached), blocks, rows, torch.float64)
    torch.testing.assert_close(found.out, out[rows].detach())
    torch.testing.assert_close(found.lse, lse[rows].detach())
    for name, got in found.grads.items():
        want = wanted[name][rows] if name in ("q", "gates") else wanted[name]
        torch.testing.assert_close(got, want)


def test_checks_pass_and_16_bits_are_compared_with_pytorch(bench: Bench) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        found = correctness.accuracy(bench, dtype, 4, SHAPE, "hub", "8k", 40)
        assert all(one.ok for one in found), found
    assert any("PyTorch" in one.what for one in found)
    more = [correctness.choice(bench, torch.float32, 4, SHAPE, 40)]
    more += [
        check(bench, SHAPE)
        for check in (
            correctness.poisoned, correctness.repeats, correctness.batch, correctness.no_sync,
            correctness.offsets,
        )
    ]  # fmt: skip
    assert all(one.ok for findings in more for one in findings)


def wrong(name: str, spoil: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(cpu, name)
    monkeypatch.setattr(cpu, name, lambda *args: spoil(right(*args)))


def test_a_wrong_gradient_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong("selection_backward", lambda got: (got[0], got[1], got[2] * 1.0001), monkeypatch)
    found = correctness.accuracy(bench, torch.float32, 4, SHAPE, "local", "8k", 40)
    assert [one.what for one in found if not one.ok] == ["dv"]


def test_a_wrong_choice_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.select_blocks

    def next_best(q: Tensor, k: Tensor, lse: Tensor, plan: SSAPlan, top_k: int) -> Tensor:
        """The best but one of those that are chosen, and the first that is not."""
        best, more = right(q, k, lse, plan, top_k), right(q, k, lse, plan, top_k + 1)
        keep = torch.ones_like(more, dtype=torch.bool)
        fresh = (more[..., :1] != best).all(2)  # whether the first is the newcomer
        keep.scatter_(2, fresh[:, :, None].long(), value=False)
        return more[keep].view(best.shape)

    monkeypatch.setattr(cpu, "select_blocks", next_best)
    found = correctness.choice(bench, torch.float32, 4, SHAPE, 40)
    assert [one.ok for one in found] == [False, True] * 3  # ascending they are


def test_unwritten_memory_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    holds_nan = []

    def forgetful(got: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(got[0])
        holds_nan.append(bool(out.isnan().all()))
        out[:-1] = got[0][:-1]
        return out, got[1]

    wrong("window_forward", forgetful, monkeypatch)
    assert not all(one.ok for one in correctness.poisoned(bench, SHAPE))
    assert holds_nan == [False, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_changing_results_are_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    wrong("combine_forward", lambda out: out + 1e-6 * next(calls), monkeypatch)
    assert not all(one.ok for one in correctness.repeats(bench, SHAPE))


def test_mixed_samples_are_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong("window_forward", lambda got: (got[0].roll(1, 0), got[1]), monkeypatch)
    assert not all(one.ok for one in correctness.batch(bench, SHAPE))
    assert not all(one.ok for one in correctness.offsets(bench, SHAPE))


def test_nan_is_never_right(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(got: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        got[0][-1] = float("nan")
        return got

    wrong("window_forward", spoil, monkeypatch)
    for check in (correctness.batch, correctness.offsets, correctness.repeats):
        assert not all(one.ok for one in check(bench, SHAPE))
    accuracy = correctness.accuracy(bench, torch.float32, 4, SHAPE, "local", "8k", 1000)
    assert not all(one.ok for one in accuracy)


def test_union_of_neighbours(bench: Bench) -> None:
    plan = bench.plan(("8k",), 4)[0]
    same = torch.tensor([0, 1, -1]).int().expand(plan.tokens, 2, 3)
    assert union_factor(same, plan) == 1.0
    rows = torch.arange(plan.tokens)[:, None, None].expand(-1, 2, 1).int()
    assert union_factor(rows, plan) == 4.0

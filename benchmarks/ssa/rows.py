"""One row of the table: the attention on one batch, timed as a whole and stage by stage."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.correctness import compared
from benchmarks.ssa.findings import largest, relative
from benchmarks.ssa.problem import (
    Problem,
    Shape,
    most_popular,
    sizes_of,
    union_factor,
)
from benchmarks.ssa.timing import Stopwatch, median_ms, peak_gib, rotation

ROWS = 256  # whose errors are measured
STAGE_RUNS = 5
# What the selection branch calls, in whose time lists are told from attention.
PARTS = (
    "selection_walk", "walk_forward", "selection_readers", "walk_backward", "readers_backward",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Which batch, which heads, which blocks."""

    size: str
    cell: int
    shape: Shape
    pattern: str

    def __str__(self) -> str:
        return f"{self.size}, cells {self.cell}³, {self.shape} heads, {self.pattern}"

    def problems(self, bench: Bench) -> list[Problem]:
        """Inputs to go through in turn; the first is always the same."""

        def make(seed: int) -> Problem:
            return bench.problem((self.size,), self.cell, self.shape, self.pattern, seed=seed)

        first = make(0)
        return [first, *map(make, range(1, rotation(first.nbytes(), bench.device)))]


def measure(bench: Bench, row: Row) -> dict[str, Any]:
    """Everything about one row, as numbers for a record."""
    problem = bench.problem((row.size,), row.cell, row.shape, row.pattern)
    plan = problem.plan
    blocks, _ = bench.choose(problem)
    result = {
        "size": row.size, "cell": row.cell, "heads": str(row.shape), "pattern": row.pattern,
        "tokens": plan.tokens, "per_cell": plan.tokens / plan.cells.count,
        "per_block": plan.tokens / plan.blocks.count, "mesh": bench.sets[row.size].mesh,
        "resolution": bench.sets[row.size].resolution,
        "sizes": asdict(sizes_of(problem, blocks)),
        "union": union_factor(blocks, plan), "popular": most_popular(blocks, plan),
        **errors(bench, problem),
    }  # fmt: skip
    result["peak_gib"] = peak_gib(lambda: bench.attend(problem), bench.device)
    result["stages"] = stages(bench, problem, blocks)
    del blocks
    problems = row.problems(bench)
    result |= both_ways(
        [functools.partial(bench.forward, one) for one in problems],
        [one.inputs for one in problems], [one.grad for one in problems], bench.device,
    )  # fmt: skip
    return result


Run = Callable[[tuple[Tensor, ...]], Tensor]


def both_ways(
    runs: list[Run], inputs: list[tuple[Tensor, ...]], grads: list[Tensor], device: torch.device
) -> dict[str, float]:
    """Milliseconds forward, as in training, and backward alone."""
    leaves = [tuple(x.detach().requires_grad_() for x in one) for one in inputs]

    def forward(number: int) -> Callable[[], object]:
        return lambda: runs[number](leaves[number])

    ahead = median_ms([forward(number) for number in range(len(runs))], device)
    outs = [run(one) for run, one in zip(runs, leaves, strict=True)]

    def backward(number: int) -> Callable[[], object]:
        return lambda: torch.autograd.grad(
            outs[number], leaves[number], grads[number], retain_graph=True
        )

    back = median_ms([backward(number) for number in range(len(runs))], device)
    return {"forward_ms": ahead, "backward_ms": back}


def errors(bench: Bench, problem: Problem) -> dict[str, float]:
    """Relative L2 errors on some rows: of the result, and the worst of all gradients."""
    rows = bench.some_rows(problem.plan.tokens, ROWS)
    found, exact, _ = compared(bench, problem, rows)
    worst = largest(*(relative(found.grads[name], exact.grads[name]) for name in exact.grads))
    return {"error": relative(found.out, exact.out), "error_grad": worst}


@torch.no_grad()
def stages(bench: Bench, problem: Problem, blocks: Tensor) -> dict[str, float]:
    """Milliseconds of each branch's functions, called one by one."""
    run, plan, watch = bench.branches(), problem.plan, Stopwatch(bench.device)
    q, k, v, k_cmp, v_cmp, gates = problem.inputs
    names = [
        f"{branch}_{way}"
        for branch in ("compression", "window", "combine") for way in ("forward", "backward")
    ]  # fmt: skip
    for turn in range(1 + STAGE_RUNS):
        if turn == 1:  # the first turn compiled
            watch = Stopwatch(bench.device)
        with watch.watching(run, [*names, "select_blocks"]):
            compressed, lse = run.compression_forward(q, k_cmp, v_cmp, plan)
            run.select_blocks(q, k_cmp, lse, plan, problem.top_k)
            run.compression_backward(problem.grad, q, k_cmp, v_cmp, compressed, lse, plan)
            near, lse = run.window_forward(q, k, v, plan)
            run.window_backward(problem.grad, q, k, v, near, lse, plan)
        with watch.watching(run, ["selection_forward", "selection_backward", *PARTS]):
            selected, lse = run.selection_forward(q, k, v, blocks, plan)
            run.selection_backward(problem.grad, q, k, v, selected, lse, blocks, plan)
        with watch.watching(run, names):
            run.combine_forward(compressed, selected, near, gates)
            run.combine_backward(problem.grad, compressed, selected, near, gates)
    return watch.milliseconds()

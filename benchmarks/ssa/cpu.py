"""The CPU backend: its time beside that of PyTorch's own attention on the same blocks, its memory.

`scaled_dot_product_attention` is called once for each sample's cells, each block with its readers
and each window, and the times of the calls are added up: gathering, choosing blocks, merging what a
query got from several blocks, and gates are the backend's alone. One process per size, so that the
peak memory is its own: what the process grew by above its inputs, in one forward and backward pass.
"""

from __future__ import annotations

import datetime
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.coordinates import load
from benchmarks.ssa.machine import about
from benchmarks.ssa.problem import Problem, Shape
from benchmarks.ssa.table import markdown
from benchmarks.ssa.timing import clock, median_ms
from threed_gen.console import progress, say

SIZES = ("8k", "32k")
SHAPE, CELL = Shape(32, 32), 4
SLOWER, LARGER = 3.0, 5.0  # what the project allows: times as long; as much memory at 4 times N
HEADERS = (
    "N", "tokens", "forward s", "forward + backward s", "SDPA forward s",
    "SDPA forward + backward s", "ratio f", "ratio f + b", "peak MiB", "inputs MiB",
)  # fmt: skip


def write_page(coordinates: Path, out: Path) -> int:
    """Measure both sizes and write `ssa-cpu-<date>.md`. Exit code 1 where a limit is not kept."""
    rows = []
    for size in progress(SIZES, "measuring", "size"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, coordinates, size).result())
    text, kept = page(rows)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"ssa-cpu-{datetime.date.today().isoformat()}.md"
    path.write_text(text, encoding="utf-8")
    print(f"{text}\n{path}")
    return 0 if kept else 1


def page(rows: list[dict[str, float]]) -> tuple[str, bool]:
    """The Markdown page, and whether both limits are kept."""
    what = about(torch.device("cpu"))
    slower = max(
        max(row["forward"] / row["sdpa_forward"], row["both"] / row["sdpa_both"]) for row in rows
    )
    larger = rows[-1]["peak"] / rows[0]["peak"]
    kept = slower <= SLOWER and larger <= LARGER
    lines = [
        f"# Spatial Sparse Attention on a CPU, {what['date']}",
        "",
        f"{what['machine']}; torch {what['torch']}, python {what['python']}.",
        f"Commit {what['commit']}, kernels {what['kernels']}.",
        f"fp32, {SHAPE} heads, {SHAPE.groups} KV heads, cells {CELL}³, top-k 8, real coordinates.",
        "Written by `python -m benchmarks.ssa cpu`; `benchmarks/ssa/cpu.py` says how it measures.",
        "",
        *markdown(HEADERS, [_cells(row) for row in rows]),
        "",
        f"Slowest against the calls of SDPA: {slower:.2f} times (limit {SLOWER:.0f}).",
        f"Peak memory of the last row in that of the first: {larger:.2f} (limit {LARGER:.0f}).",
    ]
    return "\n".join(lines) + "\n", kept


def measure(coordinates: Path, size: str) -> dict[str, float]:
    """One size; meant for a fresh process. Seconds and MiB."""
    return measure_on(Bench(torch.device("cpu"), load(coordinates), "cpu", torch.float32), size)


def measure_on(bench: Bench, size: str) -> dict[str, float]:
    problem = bench.problem((size,), CELL, SHAPE, "local")
    blocks, _ = bench.choose(problem)
    inputs = tuple(x.requires_grad_() for x in problem.inputs)
    before = _peak_mib(reset=True)

    def both() -> object:
        return torch.autograd.grad(bench.forward(problem, inputs), inputs, problem.grad)

    say(f"{size}, {problem.plan.tokens} tokens: memory …")
    both()
    peak = max(0.0, _peak_mib() - before)
    say(f"{size}: peak {peak:.0f} MiB; the calls of SDPA …")
    sdpa_forward, sdpa_both = sdpa(problem, blocks)
    cpu = torch.device("cpu")
    say(f"{size}: SDPA {sdpa_both:.1f} s forward and backward; the backend, 6 passes …")
    return {
        "size": int(size.removesuffix("k")), "tokens": problem.plan.tokens, "peak": peak,
        "inputs": problem.nbytes() / 2**20, "both": median_ms([both], cpu) / 1e3,
        "forward": median_ms([lambda: bench.forward(problem, inputs)], cpu) / 1e3,
        "sdpa_forward": sdpa_forward, "sdpa_both": sdpa_both,
    }  # fmt: skip


def sdpa(problem: Problem, blocks_NGk: Tensor) -> tuple[float, float]:
    """Seconds in PyTorch's attention: forward, and forward with backward, over all pieces."""
    now, ahead, both = clock(), 0.0, 0.0
    for q, k, v, grad in pieces(problem, blocks_NGk):
        tensors = [x[None, None].detach().requires_grad_() for x in (q, k, v)]
        start = now()
        out = F.scaled_dot_product_attention(tensors[0], tensors[1], tensors[2])
        middle = now()
        torch.autograd.grad(out, tensors, grad[None, None])
        ahead, both = ahead + middle - start, both + now() - start
    return ahead, both


def pieces(problem: Problem, blocks_NGk: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """q, k, v and gradient of queries that read the same keys, heads of a group as further rows."""
    plan, groups = problem.plan, problem.k.shape[1]
    q, grad = (x.detach().unflatten(1, (groups, -1)) for x in (problem.q, problem.grad))

    def piece(
        g: int, rows: slice | Tensor, keys: slice | Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, ...]:
        return q[rows, g].flatten(0, 1), k[keys, g], v[keys, g], grad[rows, g].flatten(0, 1)

    for g in range(groups):
        for rows, cells in zip(
            _runs(plan.cu_seqlens), _runs(plan.cells.of_sample), strict=True
        ):  # samples
            yield piece(g, rows, cells, problem.k_cmp, problem.v_cmp)
        chosen, order = blocks_NGk[:, g].flatten().sort(stable=True)
        bounds = torch.searchsorted(chosen, torch.arange(plan.blocks.count + 1, dtype=chosen.dtype))
        for readers, keys in zip(_runs(bounds), _runs(plan.blocks.starts), strict=True):
            if readers.stop > readers.start:
                yield piece(g, order[readers] // problem.top_k, keys, problem.k, problem.v)
        for window in _runs(plan.near.starts):
            rows_of = plan.near.order[window]
            yield piece(g, rows_of, rows_of, problem.k, problem.v)


def _runs(starts: Tensor) -> list[slice]:
    bounds = starts.tolist()
    return [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _cells(row: dict[str, float]) -> list[str]:
    times = [f"{row[key]:.3f}" for key in ("forward", "both", "sdpa_forward", "sdpa_both")]
    ratios = [row["forward"] / row["sdpa_forward"], row["both"] / row["sdpa_both"]]
    return [
        f"{row['size']:.0f}k", f"{row['tokens']:.0f}", *times, *(f"{x:.2f}" for x in ratios),
        f"{row['peak']:.0f}", f"{row['inputs']:.0f}",
    ]  # fmt: skip


def _peak_mib(reset: bool = False) -> float:
    """Most memory of this process so far, MiB; with `reset`, what it has now, and begin anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10

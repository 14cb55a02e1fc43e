"""Tensors of more than 2³¹ numbers: is every offset into them wide enough?

Many samples with a small one as the last, which must come out as it does alone. One branch at a
time, so that few such tensors (4 GiB each) live together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.coordinates import batch
from benchmarks.ssa.findings import OUTPUT_GRADIENT, Finding, largest, relative
from benchmarks.ssa.problem import Shape, make_problem
from kernels.ssa import build_plan

LIMIT = 1 << 31
NEEDED = 60 * 2**30  # bytes that must be free
TINY_COPIES = 3


def offsets(bench: Bench, shape: Shape, cell: int = 4) -> list[Finding]:
    """Every function of the branches on more than 2³¹ numbers against the last sample alone."""
    free = torch.cuda.mem_get_info()[0] if bench.gpu else 0
    if bench.gpu and free < NEEDED:
        what = f"left out: {free / 2**30:.0f} GiB are free, it takes {NEEDED / 2**30:.0f}"
        return [Finding(what, 0, float("inf"))]
    shape, one = bench.shape(shape), bench.sets["8k"]
    copies = TINY_COPIES if bench.tiny else LIMIT // (one.tokens * shape.heads * shape.width) + 2
    # Sorted by sample first, so rows of one copy are those of the sample alone.
    single = batch([one], bench.device)
    coords = single.repeat(copies, 1)
    coords[:, 0] = torch.arange(copies, device=coords.device).repeat_interleave(len(single))
    many, last = build_plan(coords, cell=cell), build_plan(single, cell=cell)
    small = make_problem(last, single, shape, "local", bench.top_k, bench.dtype)
    run, tokens = bench.branches(), last.tokens
    limit, limit_grad = OUTPUT_GRADIENT[bench.dtype]
    findings: list[Finding] = []

    def wide(x: Tensor) -> Tensor:
        """Copies of half the size, and the sample itself at the end: they must not be mixed up."""
        many = x.repeat(copies, *[1] * (x.ndim - 1))
        many[: -len(x)] *= 0.5
        return many

    def compare(
        name: str, got: tuple[Tensor, ...], wanted: tuple[Tensor, ...], most: float
    ) -> None:
        worst = largest(
            *(relative(a[-len(b) :], b) for a, b in zip(got, wanted, strict=True))
        )  # every tensor is as many copies long
        findings.append(Finding(name, worst, most))

    q, k, v, k_cmp, v_cmp, gates = small.inputs
    with torch.no_grad():
        args = (q, k_cmp, v_cmp)
        alone = run.compression_forward(*args, last)
        blocks = run.select_blocks(q, k_cmp, alone[1], last, small.top_k)
        q_far = wide(q)
        far = run.compression_forward(q_far, wide(k_cmp), wide(v_cmp), many)
        compare("compression", far, alone, limit)
        blocks_far = run.select_blocks(q_far, wide(k_cmp), far[1], many, small.top_k)
        shift = (copies - 1) * last.blocks.count
        moved = torch.where(blocks < 0, blocks, blocks + shift)
        differing = int((blocks_far[-tokens:] != moved).sum())
        findings.append(Finding("chosen blocks that differ", differing, 0))
        grad_far = wide(small.grad)
        got = run.compression_backward(grad_far, q_far, wide(k_cmp), wide(v_cmp), *far, many)
        wanted = run.compression_backward(small.grad, *args, *alone, last)
        compare("compression, gradients", got, wanted, limit_grad)
        del far, got

        for name, ids_far, ids in (("selection", (blocks_far,), (blocks,)), ("window", (), ())):
            forward, backward = getattr(run, f"{name}_forward"), getattr(run, f"{name}_backward")
            alone = forward(q, k, v, *ids, last)
            far = forward(q_far, wide(k), wide(v), *ids_far, many)
            compare(name, far, alone, limit)
            got = backward(grad_far, q_far, wide(k), wide(v), *far, *ids_far, many)
            wanted = backward(small.grad, q, k, v, *alone, *ids, last)
            compare(f"{name}, gradients", got, wanted, limit_grad)
            del far, got

        # Three branches in one: the queries will do as all of them.
        far = (run.combine_forward(q_far, q_far, grad_far, wide(gates)),)
        compare("gates", far, (run.combine_forward(q, q, small.grad, gates),), limit)
        del far
        got = run.combine_backward(grad_far, q_far, q_far, q_far, wide(gates))
        wanted = run.combine_backward(small.grad, q, q, q, gates)
        compare("gates, gradients", got, wanted, limit_grad)
    return findings

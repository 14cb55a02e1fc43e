"""Is the attention right? Compared with float64 on the same rounded inputs, and with itself.

Every check returns findings: a number with the limit that it must stay below. Limits are those of
the project's numerics: relative L2 error, and for 16-bit types also the largest error against that
of PyTorch's own operators in the same type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.far import offsets
from benchmarks.ssa.findings import LSE, OUTPUT_GRADIENT, Finding, largest, relative
from benchmarks.ssa.problem import Problem, Shape
from benchmarks.ssa.truth import Truth, block_scores, truth

WORSE_OUTPUT, WORSE_GRADIENT = 2.0, 3.0  # largest error, in those of PyTorch in the same type
TIE = 1e-5  # relative: blocks whose scores are so near may change places
ROWS, REPEATS = 1024, 20


def accuracy(
    bench: Bench, dtype: torch.dtype, cell: int, shape: Shape, pattern: str, size: str, rows: int
) -> list[Finding]:
    """Result, LSE and all gradients of some rows against float64."""
    problem = bench.problem((size,), cell, shape, pattern, dtype)
    chosen = bench.some_rows(problem.plan.tokens, rows)
    found, exact, same = compared(bench, problem, chosen, with_pytorch=dtype != torch.float32)
    limit, limit_grad = OUTPUT_GRADIENT[dtype]
    findings = [Finding("result", relative(found.out, exact.out), limit)]
    off = (found.lse.double() - exact.lse).abs() / exact.lse.abs().clamp(min=1)
    findings.append(Finding("LSE", float(off.max()), LSE))
    for name, grad in found.grads.items():
        findings.append(Finding(f"d{name}", relative(grad, exact.grads[name]), limit_grad))
    if same is not None:
        pairs = {"result": (found.out, same.out, exact.out)} | {
            f"d{name}": (found.grads[name], same.grads[name], exact.grads[name])
            for name in found.grads
        }
        for name, (ours, theirs, right) in pairs.items():
            worst, bound = ((x.double() - right).abs().max() for x in (ours, theirs))
            factor = WORSE_OUTPUT if name == "result" else WORSE_GRADIENT
            ratio = float(worst / bound) if float(worst) else 0.0
            findings.append(Finding(f"{name}, largest error ÷ PyTorch's", ratio, factor))
    return findings


def compared(
    bench: Bench, problem: Problem, rows: Tensor, with_pytorch: bool = False
) -> tuple[Truth, Truth, Truth | None]:
    """Of some rows: what the backend says, float64, and PyTorch's operators in the same type."""
    blocks, lse = bench.choose(problem)
    grad = torch.zeros_like(problem.grad)
    grad[rows] = problem.grad[rows]
    out, grads = bench.attend(replace(problem, grad=grad))
    for name in ("q", "gates"):
        grads[name] = grads[name][rows]
    found = Truth(out[rows], lse[rows], grads)
    exact = truth(problem, blocks, rows, torch.float64)
    same = truth(problem, blocks, rows, problem.q.dtype) if with_pytorch else None
    return found, exact, same


def choice(bench: Bench, dtype: torch.dtype, cell: int, shape: Shape, rows: int) -> list[Finding]:
    """Chosen blocks against float64 scores, as sets; equal scores may change places."""
    findings = []
    for pattern in ("local", "random", "hub"):
        # large: more blocks than a kernel looks at together, more queries than it scores at once
        problem = bench.problem(("128k",), cell, shape, pattern, dtype)
        blocks, _ = bench.choose(problem)
        worst, malformed = 0.0, 0
        some = bench.some_rows(problem.plan.tokens, rows)
        for part, score, first in block_scores(problem, some):
            here = blocks[part].long()
            count = min(problem.top_k, score.shape[2])
            local = here[..., :count] - first
            ordered = (local.diff(dim=2) > 0).all() and bool((here[..., count:] == -1).all())
            inside = ((local >= 0) & (local < score.shape[2])).all()
            malformed += not (ordered and inside)
            best = score.sort(dim=2, descending=True).values[..., count - 1]
            least = score.gather(2, local.clamp(0, score.shape[2] - 1)).amin(2)
            worst = largest(worst, float((1 - least / best).max()))
        findings += [
            Finding(f"{pattern}: gap to the k-th best score", worst, TIE),
            Finding(f"{pattern}: lists not ascending, or outside the sample", malformed, 0),
        ]
    return findings


def poisoned(bench: Bench, shape: Shape) -> list[Finding]:
    """Memory full of NaN instead of whatever was there: nothing unwritten may be read."""
    problem = bench.problem(("8k",), 4, shape, "hub")
    plain = bench.attend(problem)
    with _poison():
        dirty = bench.attend(problem)
    return _same(plain, dirty, "with NaN in fresh memory")


def repeats(bench: Bench, shape: Shape) -> list[Finding]:
    """The same bits every time."""
    problem = bench.problem(("8k",), 4, shape, "hub")
    first, blocks = bench.attend(problem), bench.choose(problem)[0]
    differing = 0
    for _ in range(2 if bench.tiny else REPEATS):
        again = bench.attend(problem)
        same = all(torch.equal(first[1][name], again[1][name]) for name in first[1])
        same &= torch.equal(first[0], again[0])
        differing += not (same and torch.equal(blocks, bench.choose(problem)[0]))
    return [Finding("runs that differ in any bit", differing, 0)]


def batch(bench: Bench, shape: Shape) -> list[Finding]:
    """Three samples in one call are three calls."""
    names = ("8k", "16k", "32k")
    limit = OUTPUT_GRADIENT[bench.dtype]
    whole = bench.problem(names, 4, shape, "local")
    out, grads = bench.attend(whole)
    worst, differing = [0.0, 0.0], 0
    rows, cells = (t.tolist() for t in (whole.plan.cu_seqlens, whole.plan.cells.of_sample))
    for number, name in enumerate(names):
        row, cell = (slice(*starts[number : number + 2]) for starts in (rows, cells))
        of = {"q": row, "k": row, "v": row, "gates": row, "k_cmp": cell, "v_cmp": cell}
        parts = {key: getattr(whole, key)[part] for key, part in of.items()}
        plan = bench.plan((name,), 4)[0]
        alone = replace(whole, plan=plan, grad=whole.grad[row], **parts)
        out_alone, grads_alone = bench.attend(alone)
        pairs = [(out[row], out_alone, 0)]
        pairs += [(grads[key][part], grads_alone[key], 1) for key, part in of.items()]
        for together, separate, kind in pairs:
            worst[kind] = largest(worst[kind], relative(together, separate))
            differing += not torch.equal(together, separate)
    return [
        Finding("result, relative difference", worst[0], limit[0]),
        Finding("gradients, relative difference", worst[1], limit[1]),
        Finding("tensors that differ in any bit (for information)", differing, float("inf")),
    ]


def no_sync(bench: Bench, shape: Shape) -> list[Finding]:
    """With a plan at hand, neither direction waits for the GPU."""
    problem = bench.problem(("8k",), 4, shape, "local")
    bench.attend(problem)  # compiling is allowed to wait
    waits = 0
    if bench.gpu:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        bench.attend(problem)
    except RuntimeError as err:
        if "synchroniz" not in str(err):
            raise
        waits = 1
    finally:
        if bench.gpu:
            torch.cuda.set_sync_debug_mode("default")
    return [Finding("waits for the GPU", waits, 0)]


def _same(
    one: tuple[Tensor, dict[str, Tensor]], two: tuple[Tensor, dict[str, Tensor]], how: str
) -> list[Finding]:
    pairs = {"result": (one[0], two[0])} | {f"d{k}": (one[1][k], two[1][k]) for k in one[1]}
    return [
        Finding(f"{name}: numbers that differ {how}", int((a != b).sum()), 0)
        for name, (a, b) in pairs.items()
    ]


@contextmanager
def _poison() -> Iterator[None]:
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]


Check = Callable[[Bench], list[Finding]]


def checks(bench: Bench) -> dict[str, Check]:
    """All checks by name, those of bf16 first: timings wait for them."""
    wide, narrow, half = Shape(32, 64), Shape(32, 32), Shape(16, 64)
    cases = [(4, wide, "local"), (8, narrow, "random"), (4, half, "hub")]
    kinds = [torch.bfloat16, torch.float16, torch.float32]
    if bench.backend == "triton" and not bench.gpu:
        kinds = [torch.float32]  # Triton's interpreter computes bf16 wrongly
    rows = 24 if bench.tiny else ROWS
    found: dict[str, Check] = {}
    for kind in kinds:
        name = str(kind).removeprefix("torch.")
        for cell, shape, pattern in cases:
            found[f"{name} {shape} cells {cell}³ {pattern} 8k"] = _accuracy(
                kind, cell, shape, pattern, "8k", rows
            )
        for cell in (4, 8):
            found[f"{name} chosen blocks, cells {cell}³, 128k"] = _choice(kind, cell, wide, rows)
        if kind == bench.dtype:
            found |= {
                f"{name} {wide} cells 4³ local 128k": _accuracy(
                    kind, 4, wide, "local", "128k", rows // 2
                ),
                f"{name} fresh memory holds NaN": lambda b: poisoned(b, wide),
                f"{name} {REPEATS} runs": lambda b: repeats(b, wide),
                f"{name} batch of three": lambda b: batch(b, wide),
                f"{name} no synchronisation": lambda b: no_sync(b, wide),
                f"{name} offsets beyond 2³¹": lambda b: offsets(b, wide),
            }
    return found


def _accuracy(
    kind: torch.dtype, cell: int, shape: Shape, pattern: str, size: str, rows: int
) -> Check:
    return lambda b: accuracy(b, kind, cell, shape, pattern, size, rows)


def _choice(kind: torch.dtype, cell: int, shape: Shape, rows: int) -> Check:
    return lambda b: choice(b, kind, cell, shape, rows)

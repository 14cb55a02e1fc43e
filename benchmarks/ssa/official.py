"""The kernels of the official release (Direct3D-S2), out of a checkout, timed beside ours.

Two of its files are loaded as they are: scores with the choice of blocks, and the selection. What
they import from their package are annotations only. What the release takes from flash-attn
(compression and windows) is called as there, or through PyTorch's `varlen_attn` where flash-attn is
not installed. The release builds the index tables of windows once per layer; here they are given,
so its time is without them. Nothing of the release is copied into this repository.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.findings import relative
from benchmarks.ssa.problem import Problem
from benchmarks.ssa.rivals import (
    REFUSALS,
    Starts,
    first_line,
    repeating,
    takes_groups,
    torch_varlen,
    varlen,
)
from benchmarks.ssa.rows import Row, both_ways
from benchmarks.ssa.timing import peak_gib
from kernels.ssa.plan import BLOCK

FOLDER = "direct3d_s2/modules/sparse/attention/spatial_sparse_attention/ops"
FILES = ("compressed_attention", "selection_attention")
TOO_NEW = (3, 9)  # Triton
STUBS = ("direct3d_s2", "direct3d_s2.modules", "direct3d_s2.modules.sparse")


def load(checkout: Path) -> SimpleNamespace:
    """`scores` and `selection` of the release."""
    folder = checkout / FOLDER
    missing = [name for name in FILES if not (folder / f"{name}.py").is_file()]
    if missing:
        raise ImportError(
            f"{checkout}: no checkout of Direct3D-S2, it lacks {FOLDER}/{missing[0]}.py"
        )
    version = tuple(int(part) for part in metadata.version("triton").split(".")[:2])
    if version >= TOO_NEW:
        raise ImportError(
            f"the official kernels use block pointers, which Triton {TOO_NEW[0]}.{TOO_NEW[1]} "
            f"removed; this is {version[0]}.{version[1]}"
        )
    with _stubs():
        scores, selection = (_module(name, folder / f"{name}.py") for name in FILES)
    return SimpleNamespace(
        scores=scores.get_block_score, selection=selection.spatial_selection_attention
    )


@dataclass(frozen=True)
class Official:
    """One batch as the release's functions want it."""

    ops: SimpleNamespace
    problem: Problem
    coords: Tensor  # [N, 4]
    attend: Any  # full attention over samples, q, k, v and their starts
    attend_with_lse: Any

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The gated sum of its three branches, [N, H, D]."""
        q, k, v, k_cmp, v_cmp, gates = inputs
        plan = self.problem.plan
        rows: Starts = plan.cu_seqlens, plan.longest_sample
        cells: Starts = plan.cells.of_sample, plan.cells.most
        compressed, lse = self.attend_with_lse(q, k_cmp, v_cmp, rows, cells)
        with torch.no_grad():
            blocks, cu_blocks, cu_tokens = self.ops.scores(
                SimpleNamespace(feats=q, coords=self.coords, device=q.device),
                SimpleNamespace(feats=k_cmp, coords=self._cells()),
                lse.contiguous(), self._resolution(), plan.cell, BLOCK, self.problem.top_k,
                rows[0], cells[0], rows[0].diff(), cells[0].diff(),
            )  # fmt: skip
        selected = self.ops.selection(q, k, v, blocks, cu_blocks, cu_tokens, BLOCK, rows[0])
        table = plan.near
        windows: Starts = table.starts, table.longest
        near = self.attend(*(x[table.order] for x in (q, k, v)), windows, windows)[table.inverse]
        a, b, c = (gates[:, i : i + 1, None] for i in range(3))
        return a * compressed + b * selected + c * near

    def _cells(self) -> Tensor:
        first = self.problem.plan.cells.starts[:-1].long()
        cells = self.coords[first].clone()
        cells[:, 1:] //= self.problem.plan.cell
        return cells

    def _resolution(self) -> int:
        grid: int = -(-(int(self.coords[:, 1:].max()) + 1) // BLOCK) * BLOCK
        return grid


def measure(bench: Bench, row: Row) -> dict[str, Any]:
    """Times, memory, and how far its result is from ours; or why there are none."""
    assert bench.compare is not None
    result: dict[str, Any] = {
        "size": row.size, "cell": row.cell, "heads": str(row.shape), "pattern": row.pattern,
    }  # fmt: skip
    try:
        ops, (attend, with_lse, label) = load(bench.compare), _attention(bench.device)
        coords = bench.plan((row.size,), row.cell)[1]
        problems = row.problems(bench)
        runs = [Official(ops, problem, coords, attend, with_lse) for problem in problems]
        first = tuple(x.detach().requires_grad_() for x in problems[0].inputs)
        out = runs[0](first)
        result["difference"] = relative(out.detach(), bench.forward(problems[0], first).detach())
        del out
        result["peak_gib"] = peak_gib(
            lambda: torch.autograd.grad(runs[0](first), first, problems[0].grad), bench.device
        )
        result |= both_ways(
            list(runs), [one.inputs for one in problems], [one.grad for one in problems],
            bench.device,
        )  # fmt: skip
    except REFUSALS as err:
        if "CUDA error" in str(err):
            raise
        return {**result, "refused": first_line(err)}
    return {**result, "label": f"official kernels, {label} for compression and windows"}


def _attention(device: torch.device) -> tuple[Any, Any, str]:
    """Packed attention without and with LSE [H, N], and its name."""
    try:
        package: Any = importlib.import_module("flash_attn")
    except ImportError:
        plain_, lse_ = (varlen(torch_varlen(), return_lse=wanted) for wanted in (False, True))
        if takes_groups(plain_, device):
            return plain_, lse_, "varlen_attn"
        return repeating(plain_), repeating(lse_), "varlen_attn with KV heads repeated"

    def plain(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, of_k: Starts) -> Any:
        return package.flash_attn_varlen_func(q, k, v, of_q[0], of_k[0], of_q[1], of_k[1])

    def with_lse(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, of_k: Starts) -> Any:
        return package.flash_attn_varlen_func(
            q, k, v, of_q[0], of_k[0], of_q[1], of_k[1], return_attn_probs=True
        )[:2]

    return plain, with_lse, f"flash-attn {package.__version__}"


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"official_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Triton looks its kernels' source up there
    spec.loader.exec_module(module)
    return module


@contextmanager
def _stubs() -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in STUBS}
    for name in STUBS:
        sys.modules[name] = ModuleType(name)
    sys.modules[STUBS[-1]].SparseTensor = object  # type: ignore[attr-defined]
    sys.modules[STUBS[0]].modules = sys.modules[STUBS[1]]  # type: ignore[attr-defined]
    sys.modules[STUBS[1]].sparse = sys.modules[STUBS[2]]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

"""What all measurements share: the device, the coordinates, and how the attention is called."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.ssa import coordinates
from benchmarks.ssa.coordinates import CoordinateSet
from benchmarks.ssa.problem import Problem, Shape, make_problem
from kernels.ssa import SSAPlan, build_plan, cpu, spatial_sparse_attention
from kernels.ssa.attention import Backend

TINY_TOKENS = dict.fromkeys(coordinates.SIZES, 150) | {"8k": 80, "16k": 20}


@dataclass(frozen=True, eq=False)
class Bench:
    """One device and one backend, with all coordinates. Tiny: to try the program out on a CPU."""

    device: torch.device
    sets: Mapping[str, CoordinateSet]
    backend: Backend
    dtype: torch.dtype  # of what is timed
    top_k: int = 8
    tiny: bool = False
    compare: Path | None = None  # a checkout of the official code

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @functools.lru_cache(maxsize=2)  # noqa: B019  neighbouring rows share a plan
    def plan(self, names: tuple[str, ...], cell: int) -> tuple[SSAPlan, Tensor]:
        """The plan of one sample per named set, and its coordinates [N, 4]."""
        coords = coordinates.batch([self.sets[name] for name in names], self.device)
        return build_plan(coords, cell=cell, batch_size=len(names)), coords

    def shape(self, shape: Shape) -> Shape:
        """The heads, or few and narrow ones where all is tiny."""
        return Shape(4, 16) if self.tiny else shape

    def problem(
        self, names: tuple[str, ...], cell: int, shape: Shape, pattern: str,
        dtype: torch.dtype | None = None, seed: int = 0,
    ) -> Problem:  # fmt: skip
        """Inputs on the device; the same for the same arguments."""
        plan, coords = self.plan(names, cell)
        kind = dtype or self.dtype
        return make_problem(plan, coords, self.shape(shape), pattern, self.top_k, kind, seed)

    def branches(self) -> ModuleType:
        """Forward and backward of each branch, as plain functions."""
        if self.backend == "cpu":
            return cpu
        from kernels.ssa.gpu import branches  # needs Triton

        return branches

    @torch.no_grad()
    def choose(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Blocks [N, G, k] that the queries choose, and LSE [N, H] of the compression."""
        run, plan = self.branches(), problem.plan
        lse = run.compression_forward(problem.q, problem.k_cmp, problem.v_cmp, plan)[1]
        return run.select_blocks(problem.q, problem.k_cmp, lse, plan, problem.top_k), lse

    def forward(self, problem: Problem, inputs: tuple[Tensor, ...]) -> Tensor:
        """The attention through its front, [N, H, D]."""
        return spatial_sparse_attention(
            *inputs, plan=problem.plan, top_k=problem.top_k, backend=self.backend
        )

    def attend(self, problem: Problem) -> tuple[Tensor, dict[str, Tensor]]:
        """Result and gradients."""
        inputs = tuple(x.detach().requires_grad_() for x in problem.inputs)
        out = self.forward(problem, inputs)
        grads = torch.autograd.grad(out, inputs, problem.grad)
        names = ("q", "k", "v", "k_cmp", "v_cmp", "gates")
        return out.detach(), dict(zip(names, grads, strict=True))

    def some_rows(self, tokens: int, count: int) -> Tensor:
        """So many rows, the same every time, ascending."""
        order = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))
        return order[:count].sort().values.to(self.device)


def tiny_bench(top_k: int = 3, backend: Backend = "cpu") -> Bench:
    """A sphere of a few hundred tokens for every size, in fp32 on the CPU."""
    sets = {name: coordinates.ball(tokens, name) for name, tokens in TINY_TOKENS.items()}
    return Bench(torch.device("cpu"), sets, backend, torch.float32, top_k, tiny=True)

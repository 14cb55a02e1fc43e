"""What the offline table compiles of Spatial Sparse Attention: its launches, forward and backward.

Each case runs launchers; `kernels.offline` writes down what they launch. Cases that differ in
nothing that is compiled are left out there, so windows, which launch what compression does, are
not named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from kernels.ssa.gpu import branches, segment_mean
from kernels.ssa.plan import SSAPlan, build_plan, sort_coords

Case = tuple[str, Callable[[], None]]
BLOCKS = 12  # edge of the cloud in blocks: the choice looks at more than 1024 of them at a time


@dataclass(frozen=True)
class Model:
    """Heads of an attention layer and what its numbers are."""

    heads: int
    groups: int
    width: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.heads}×{self.width}/{self.groups} {kind}"


RELEASED = Model(heads=32, groups=2, width=32)
RECOMMENDED = Model(heads=16, groups=2, width=64)


def cases(everything: bool) -> Iterator[Case]:
    """The released and the recommended model; everything: whatever else the kernels take."""
    plans = {cell: _plan(cell) for cell in (4, 8)}
    for model in (RELEASED, RECOMMENDED):
        yield from _model_cases(model, plans, top_k=8)
    if everything:
        for top_k in (16, 32):
            for model in (RELEASED, RECOMMENDED):
                yield from _model_cases(model, plans, top_k)
        for model in _others():
            yield from _model_cases(model, plans, top_k=8)


def _others() -> Iterator[Model]:
    """Head dimensions and sharing of KV heads; types and single KV heads where they matter most."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    for width, shares in ((32, (1, 2, 4, 8, 16, 32)), (64, (1, 2, 4, 8, 16, 32))):
        yield from (Model(2 * share, 2, width, bf16) for share in shares)
    for width in (16, 128):
        yield from (Model(2 * share, 2, width, bf16) for share in (1, 4, 16))
    yield Model(16, 1, 64, bf16)
    yield Model(32, 2, 32, fp16)
    yield Model(16, 2, 64, fp16)
    for width in (16, 32, 64, 128):
        yield Model(32, 2, width, fp32)
    yield from (Model(2 * share, 2, 32, fp32) for share in (1, 2, 8))


def _model_cases(model: Model, plans: dict[int, SSAPlan], top_k: int) -> Iterator[Case]:
    plan = plans[4]
    tokens, cells = plan.tokens, plan.num_cells
    q = torch.zeros(tokens, model.heads, model.width, dtype=model.dtype)
    k = torch.zeros(tokens, model.groups, model.width, dtype=model.dtype)
    k_cmp = k[:cells]
    lse = torch.zeros(tokens, model.heads)
    chosen = torch.zeros(tokens, model.groups, top_k, dtype=torch.int32)
    gates = torch.zeros(tokens, 3, dtype=model.dtype)

    def dense() -> None:
        branches.compression_forward(q, k_cmp, k_cmp, plan)
        branches.compression_backward(q, q, k_cmp, k_cmp, q, lse, plan)

    def selection() -> None:
        branches.selection_forward(q, k, k, chosen, plan)
        branches.selection_backward(q, q, k, k, q, lse, chosen, plan)

    def choice(cell: int) -> Callable[[], None]:
        return lambda: _ignore(branches.select_blocks(q, k_cmp, lse, plans[cell], top_k))

    def around() -> None:
        branches.combine_forward(q, q, q, gates)
        branches.combine_backward(q, q, q, q, gates)
        segment_mean.segment_mean_forward(q.flatten(1), plan.cells.starts)
        segment_mean.segment_mean_backward(q.flatten(1)[:cells], plan.cells.starts, tokens)

    yield f"{model} dense", dense
    yield f"{model} selection, top-{top_k}", selection
    for cell in plans:
        yield f"{model} choice, m_cmp {cell}, top-{top_k}", choice(cell)
    yield f"{model} gates, means", around


def _ignore(_: object) -> None:
    pass


def _plan(cell: int) -> SSAPlan:
    """Two voxels in each block, in different cells of edge 4."""
    axis = 8 * torch.arange(BLOCKS)
    corner = torch.cartesian_prod(axis, axis, axis)
    voxels = torch.cat([corner, corner + 4])
    coords = torch.cat([torch.zeros(len(voxels), 1, dtype=voxels.dtype), voxels], dim=1)
    return build_plan(sort_coords(coords.int())[0], cell=cell)

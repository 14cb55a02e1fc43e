"""Layers build no index, read no size back, and let torch.compile through without a break."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kernels.ssa.plan
from kernels.ssa import SSAPlan
from tests.models.layers.layers import RELEASED, gradients, layer, plan_of, tokens
from threed_gen.models.layers.checkpointing import checkpoint_block
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.sparse.cells import prepare_cells
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

KINDS = list(RELEASED)
DEPTH = 24
# What builds an index, or brings a number from the device to Python.
INDEXING = (
    "unique", "nonzero", "sort", "searchsorted", "bucketize", "bincount", "histc", "cumsum",
    "masked_select", "local_scalar_dense", "equal", "repeat_interleave",
)  # fmt: skip


class Operators(TorchDispatchMode):
    """Names of the operators that run, without those inside this project's own operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def deep(kind: str) -> torch.nn.ModuleList:
    return torch.nn.ModuleList(layer(kind, heads=2, kv_heads=1, head_dim=8) for _ in range(DEPTH))


def run(stack: torch.nn.ModuleList, x: SparseTensor, plan: SSAPlan, checkpoint: bool) -> None:
    """Forward and backward with alternating windows."""
    h = x
    for i, module in enumerate(stack):
        shifted = plan.with_shift(4 * (i % 2))
        h = checkpoint_block(module, h, shifted) if checkpoint else module(h, shifted)
    h.feats.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_24_layers_share_what_was_built_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: Counter[Any] = Counter()
    runs_of, cached = kernels.ssa.plan.runs_of, VoxelGrid.cached

    def counted_runs_of(*args: Any) -> Any:
        built["plan"] += 1
        return runs_of(*args)

    def counted_cached(self: VoxelGrid, key: Any, build: Any) -> Any:
        def counted_build() -> Any:
            built[key] += 1
            return build()

        return cached(self, key, counted_build)

    monkeypatch.setattr(kernels.ssa.plan, "runs_of", counted_runs_of)
    monkeypatch.setattr(VoxelGrid, "cached", counted_cached)
    stack, x = deep(kind), tokens([20, 0, 30])
    run(stack, x, plan_of(x, stack[0]), checkpoint=True)
    if kind == "linear":  # cells of 8³ are the blocks: one list of runs
        assert built == {"plan": 1}
    else:  # norms need the samples of tokens and of cells
        once = {("cells", 4): 1, "neighbours": 1}
        assert built == {"plan": 2, "segments": 2, "batch_index": 2, **once}


@pytest.mark.parametrize("kind", KINDS)
def test_no_index_between_layers(kind: str) -> None:
    stack, x = deep(kind), tokens([20, 0, 30])
    plan = plan_of(x, stack[0])
    prepare_cells(x.grid, plan)
    with Operators() as seen:
        run(stack, x, plan, checkpoint=False)
    assert {"ssa_select_blocks", "ssa_attention_backward", "segment_mean"} <= seen.names
    assert [name for name in seen.names if any(word in name for word in INDEXING)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_is_read(kind: str) -> None:
    """On the meta device tensors have no values: whoever reads one fails."""
    module, x = layer(kind).to("meta"), tokens([20, 0, 30])
    plan = plan_of(x, module)
    prepare_cells(x.grid, plan)
    moved = SparseTensor(x.feats.detach().to("meta").requires_grad_(), x.grid.to("meta"))
    out = checkpoint_block(module, moved, plan.to("meta")).feats
    out.sum().backward()
    assert out.shape == x.feats.shape and moved.feats.grad is not None
    assert all(p.grad is not None for p in module.parameters())


def compiled(module: SpatialSparseAttention, graphs: list[Any]) -> Any:
    from torch._dynamo.backends.debugging import aot_eager

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True)


# Batches without a size in common: torch takes a size that has not changed yet for a constant.
BATCHES = (([20, 0, 30], 16, 0), ([9, 40, 4], 24, 4), ([33, 7, 150], 40, 0))


@pytest.mark.parametrize(("kind", "batches", "graphs"), [("linear", 3, 2), ("residual", 1, 1)])
def test_compiles_without_a_break(kind: str, batches: int, graphs: int) -> None:
    """A break would raise. The second graph has symbolic sizes and serves every later batch."""
    module, seen = layer(kind), []
    fast = compiled(module, seen)
    for counts, resolution, shift in BATCHES[:batches]:
        x = tokens(counts, resolution)
        plan = plan_of(x, module, shift)
        prepare_cells(x.grid, plan)
        wanted, out = module(x, plan).feats, fast(x, plan).feats
        assert torch.equal(out, wanted)
        pairs = zip(gradients(out, x, module), gradients(wanted, x, module), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert len(seen) == graphs

"""Recomputation changes no bit, and never chooses blocks a second time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from kernels.ssa import KEPT_OPS, SSAPlan, cpu
from tests.models.layers.layers import RELEASED, gradients, layer, plan_of, tokens
from threed_gen.models.layers.checkpointing import checkpoint_block
from threed_gen.sparse.sparse_tensor import SparseTensor

DEPTH = 3


class Stack(torch.nn.Module):
    """Attention layers with residuals and alternating windows, as in the SS-DiT."""

    def __init__(self, kind: str, run: Callable[..., Any] | None) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layer(kind, seed) for seed in range(DEPTH))
        self.run = run

    def forward(self, x: SparseTensor, plan: SSAPlan) -> Tensor:
        for i, module in enumerate(self.layers):
            args = (module, x, plan.with_shift(4 * (i % 2)))
            out = residual(*args) if self.run is None else self.run(residual, *args)
            x = x.replace(out)
        return x.feats


def residual(module: torch.nn.Module, x: SparseTensor, plan: SSAPlan) -> Tensor:
    return x.feats + module(x, plan).feats


def plain(block: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(block, *args, use_reentrant=False)


def results(kind: str, run: Callable[..., Any] | None) -> list[Tensor]:
    stack, x = Stack(kind, run), tokens([40, 0, 60])
    out = stack(x, plan_of(x, stack.layers[0]))
    return [out.detach(), *gradients(out, x, stack)]


class Calls(TorchDispatchMode):
    """Counts the calls of this project's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "threed_gen":
            self.count[str(func)] = self.count.get(str(func), 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", RELEASED)
def test_changes_no_bit(kind: str) -> None:
    wanted, got = results(kind, None), results(kind, checkpoint_block)
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_blocks_are_chosen_once_and_the_rest_is_recomputed() -> None:
    assert [str(op) for op in KEPT_OPS] == ["threed_gen.ssa_select_blocks.default"]
    for run, choices in ((checkpoint_block, DEPTH), (plain, 2 * DEPTH)):
        with Calls() as calls:
            results("linear", run)
        assert calls.count["threed_gen.ssa_select_blocks.default"] == choices
        assert calls.count["threed_gen.ssa_attention.default"] == 2 * 3 * DEPTH  # three branches
        assert calls.count["threed_gen.ssa_attention_backward.default"] == 3 * DEPTH


@pytest.mark.parametrize(("run", "same"), [(checkpoint_block, True), (plain, False)])
def test_a_choice_that_recomputation_would_not_repeat(
    run: Callable[..., Any], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that waver between two passes: only what was kept gives the right gradient."""
    wanted = results("linear", None)
    honest, seen = cpu.select_blocks, []

    def wavering(q: Tensor, k: Tensor, lse: Tensor, plan: SSAPlan, top_k: int) -> Tensor:
        seen.append(None)
        if len(seen) > DEPTH:  # in recomputation: the worst blocks instead of the best
            return honest(-q, k, cpu.compression_forward(-q, k, k, plan)[1], plan, top_k)
        return honest(q, k, lse, plan, top_k)

    monkeypatch.setattr(cpu, "select_blocks", wavering)
    got = results("linear", run)
    assert torch.equal(got[0], wanted[0])
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)) is same


def test_inside_torch_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer("linear", backend="cpu"), tokens([20, 0, 30])
    plan = plan_of(x, module)
    wanted = gradients(residual(module, x, plan), x, module)
    calls: list[str] = []  # a dispatch mode, as above, would turn compilation off

    def counted(name: str, run: Callable[..., Any], *args: Any) -> Any:
        calls.append(name)
        return run(*args)

    for name in ("select_blocks", "compression_forward"):
        monkeypatch.setattr(cpu, name, partial(counted, name, getattr(cpu, name)))
    torch._dynamo.reset()
    fast = torch.compile(
        lambda x, plan: checkpoint_block(residual, module, x, plan),
        backend="aot_eager",
        fullgraph=True,
    )
    got = gradients(fast(x, plan), x, module)
    assert sorted(calls) == ["compression_forward"] * 2 + ["select_blocks"]
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))

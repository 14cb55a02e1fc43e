"""The branches as operators: traced without a break, on the meta device, nothing read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from kernels.ssa import KEPT_OPS, SSAPlan, ops, spatial_sparse_attention
from kernels.ssa.gpu import branches
from kernels.ssa.packing import pack, unpack
from tests.kernels.ssa.clouds import inputs, plan_of, random_voxels

PLAN = plan_of(random_voxels([20, 0, 30], 16), shift=4, batch_size=3)
# What waits for the device, or makes a shape that depends on values there.
READS_BACK = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "bincount", "item")


class Seen(TorchDispatchMode):
    """Names of all operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def layers(tensors: list[Tensor], plan: SSAPlan, backend: str) -> Tensor:
    """Two layers, so that there is something between them."""
    q, k, v, k_cmp, v_cmp, gates = tensors
    for shift in (4, 0):
        q = spatial_sparse_attention(
            q, k, v, k_cmp, v_cmp, gates,
            plan=plan.with_shift(shift), top_k=2, backend=backend,  # type: ignore[arg-type]
        )  # fmt: skip
    return q


def single(plan: SSAPlan) -> list[Tensor]:
    return [t.detach().float().requires_grad_() for t in inputs(plan)]


def test_a_plan_survives_packing() -> None:
    tensors, sizes = pack(PLAN)
    again = unpack(tensors, sizes)
    assert again.with_shift(0).near.shift == 0 and again.tokens == PLAN.tokens
    twice = pack(again)
    assert twice[1] == sizes and all(a is b for a, b in zip(twice[0], tensors, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_forward_and_backward_on_the_meta_device(backend: str) -> None:
    plan = PLAN.to("meta")
    tensors = [t.detach().to("meta").requires_grad_() for t in single(PLAN)]
    if backend == "cpu":
        out = ops.window(*tensors[:3], plan, backend)
    else:
        out = layers(tensors, plan, backend)
    assert out.shape == tensors[0].shape and out.device.type == "meta"
    out.sum().backward()
    assert tensors[0].grad is not None and tensors[0].grad.shape == tensors[0].shape


def test_nothing_is_read_back_between_layers() -> None:
    """Around the operators, and in them: a mode does not look into an operator."""
    tensors = single(PLAN)
    with Seen() as seen:
        layers(tensors, PLAN, "triton").sum().backward()
    assert sum("ssa_attention.default" in name for name in seen.names) == 6
    q, k, v, k_cmp, v_cmp, gates = (t.detach() for t in tensors)
    with Seen() as inside:
        out, lse = branches.compression_forward(q, k_cmp, v_cmp, PLAN)
        branches.compression_backward(out, q, k_cmp, v_cmp, out, lse, PLAN)
        blocks = branches.select_blocks(q, k_cmp, lse, PLAN, 2)
        out, lse = branches.selection_forward(q, k, v, blocks, PLAN)
        branches.selection_backward(out, q, k, v, out, lse, blocks, PLAN)
        out, lse = branches.window_forward(q, k, v, PLAN)
        branches.window_backward(out, q, k, v, out, lse, PLAN)
        branches.combine_backward(branches.combine_forward(out, out, out, gates), *[out] * 3, gates)
    assert "aten.sort.stable" in inside.names
    names = [*seen.names, *inside.names]
    assert {name for name in names if any(bad in name for bad in READS_BACK)} == set()


def test_the_mode_sees_what_reads_back() -> None:
    with Seen() as seen:
        int(torch.arange(3).unique()[0])
    assert [name for name in seen.names if any(bad in name for bad in READS_BACK)]


@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.long)])
def test_compiled_without_a_break(backend: str) -> None:
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layers, compiled):
        tensors = single(PLAN)
        out = run(tensors, PLAN, backend)
        results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("branch", ["compression", "selection", "window"])
def test_pytorch_s_own_checks_of_operators(branch: str, backend: str) -> None:
    q, k, v, k_cmp, v_cmp, gates = single(PLAN)
    if branch == "compression":
        k, v = k_cmp, v_cmp
    blocks = torch.zeros(PLAN.tokens, 2, 1, dtype=torch.int32)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.threed_gen.ssa_attention.default,
        (q, k, v, blocks, *pack(PLAN), branch, backend), test_utils=utils,
    )  # fmt: skip
    torch.library.opcheck(
        torch.ops.threed_gen.ssa_combine.default,
        (q, q + 1, q + 2, gates, backend),
        test_utils=utils,
    )


def test_what_was_chosen_is_named_for_checkpointing() -> None:
    assert (torch.ops.threed_gen.ssa_select_blocks.default,) == KEPT_OPS

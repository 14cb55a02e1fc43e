"""The attention layer against its description by loops, and the released sizes and names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.ssa import build_plan
from tests.models.layers.layers import (
    CHANNELS,
    RELEASED,
    gradients,
    layer,
    on_grid,
    plan_of,
    tokens,
)
from tests.models.layers.ssa_by_hand import Sizes, attention_by_hand, branches_by_hand
from tests.sparse.grids import grid_of
from threed_gen.models.layers.spatial_sparse_attention import SpatialSparseAttention
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

KINDS = list(RELEASED)
BATCH = [30, 0, 5, 40]


def sizes_of(module: SpatialSparseAttention, shift: int = 0) -> Sizes:
    names = ("heads", "kv_heads", "head_dim", "top_k", "cell")
    return Sizes(**{name: getattr(module, name) for name in names}, shift=shift)


def by_hand(module: SpatialSparseAttention, x: SparseTensor, shift: int = 0) -> Tensor:
    weights = dict(module.named_parameters())
    return attention_by_hand(weights, x.feats, x.grid.coords, sizes_of(module, shift))


@pytest.mark.parametrize(
    ("kind", "changes", "shift"),
    [
        ("linear", {}, 0),
        ("linear", {"cell": 4, "top_k": 3}, 4),
        ("linear", {"kv_heads": 4, "qk_norm": True}, 0),
        ("linear", {"kv_heads": 1, "top_k": 50}, 4),
        ("residual", {}, 4),
        ("residual", {"cell": 8, "top_k": 1, "qk_norm": True}, 0),
    ],
)
def test_equals_the_description_with_all_gradients(
    kind: str, changes: dict[str, Any], shift: int
) -> None:
    changes = {"head_dim": 64 // changes.get("kv_heads", 2)} | changes  # group norm wants 32 · n
    module, x = layer(kind, **changes), tokens(BATCH)
    out = module(x, plan_of(x, module, shift)).feats
    wanted = by_hand(module, x, shift)
    assert out.shape == (sum(BATCH), CHANNELS)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(out, wanted, **close)
    for got, want in zip(gradients(out, x, module), gradients(wanted, x, module), strict=True):
        torch.testing.assert_close(got, want, **close)


def test_backends_agree() -> None:
    results = []
    for backend in ("reference", "cpu"):
        module, x = layer("linear", backend=backend), tokens(BATCH)
        out = module(x, plan_of(x, module)).feats
        results.append([out, *gradients(out, x, module)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_gates_are_compression_selection_window(branch: int) -> None:
    module, x = layer("linear"), tokens(BATCH)
    with torch.no_grad():
        x.feats[:, 0] = 1.0  # a constant that only the gates see
        for weight in (module.proj_q.weight, module.proj_k.weight, module.proj_v.weight):
            weight[:, 0] = 0.0
        module.gate[0].weight.zero_()
        module.gate[0].weight[:, 0] = torch.where(torch.arange(3) == branch, 800.0, -800.0)
    sizes = dataclasses.replace(sizes_of(module), shift=4)
    wanted = branches_by_hand(dict(module.named_parameters()), x.feats, x.grid.coords, sizes)
    out = module(x, plan_of(x, module, shift=4)).feats
    torch.testing.assert_close(out, module.proj_o(wanted[branch].flatten(1)), rtol=1e-9, atol=1e-10)


class FixedGate(torch.nn.Module):
    """In the place of the gate: the same three numbers for every token."""

    def __init__(self, *gates: float) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.gates).expand(len(x), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_position_acts_through_compression_only(kind: str) -> None:
    """Also at its initial zero, where it must be able to learn."""
    x = tokens(BATCH)
    module = layer(kind, top_k=100)  # all blocks, so that the choice cannot change
    plan = plan_of(x, module)
    with torch.no_grad():
        module.intra_block_pe.zero_()
    results = {}
    for name, gates in (("rest", (0.0, 1.0, 1.0)), ("compression", (1.0, 0.0, 0.0))):
        module.gate = FixedGate(*gates)
        out = module(x, plan).feats
        (grad,) = torch.autograd.grad(out.square().sum(), module.intra_block_pe)
        with torch.no_grad():
            module.intra_block_pe.fill_(0.5)
            moved = module(x, plan).feats
            module.intra_block_pe.zero_()
        results[name] = (bool(grad.any()), not torch.equal(moved, out))
    assert results == {"rest": (False, False), "compression": (True, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_another_order(kind: str) -> None:
    module, x = layer(kind), tokens([30, 0, 5, 40])
    out = module(x, plan_of(x, module)).feats.split(x.grid.seqlens)
    order = [3, 2, 0, 1]
    parts = []
    for sample, old in enumerate(order):
        part = x.grid.coords.split(x.grid.seqlens)[old].clone()
        part[:, 0] = sample
        parts.append(part)
    grid = VoxelGrid.from_coords(torch.cat(parts), x.grid.resolution, len(order))[0]
    moved = SparseTensor(torch.cat([x.split()[old] for old in order]), grid)
    again = module(moved, plan_of(moved, module)).feats.split(grid.seqlens)
    for sample, old in enumerate(order):
        torch.testing.assert_close(again[sample], out[old], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_sees_itself(kind: str) -> None:
    x = on_grid(grid_of([[0, 9, 3, 14]], 16, 1))
    module = layer(kind, head_dim=32)
    out = module(x, plan_of(x, module)).feats
    torch.testing.assert_close(out, by_hand(module, x), rtol=1e-10, atol=1e-10)
    assert all(bool(g.isfinite().all()) for g in gradients(out, x, module))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_tokens(kind: str) -> None:
    module, x = layer(kind), tokens([0, 0])
    out = module(x, plan_of(x, module)).feats
    assert out.shape == (0, CHANNELS)
    out.sum().backward()
    assert module.proj_o.weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_agrees_with_finite_differences(kind: str) -> None:
    """Along a random direction in the space of all parameters and inputs."""
    module, x = layer(kind, qk_norm=True), tokens(BATCH)
    plan = plan_of(x, module, shift=4)
    variables = [x.feats, *module.parameters()]
    loss = module(x, plan).feats.square().sum()
    grads = torch.autograd.grad(loss, variables)
    assert all(bool(g.any()) for g in grads)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(v.shape, generator=generator).double() for v in variables]
    slope = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    step, losses = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for v, d in zip(variables, directions, strict=True):
                v.add_(d, alpha=sign * step)
            losses.append(float(module(x, plan).feats.square().sum()))
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_trains(kind: str) -> None:
    module, x = layer(kind, top_k=100, qk_norm=True), tokens(BATCH)
    plan = plan_of(x, module)
    exact = module(x, plan).feats
    module, x = module.float(), x.replace(x.feats.detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, plan).feats
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert module.intra_block_pe.grad.dtype == torch.float32
    assert (out.double() - exact).norm() < 3e-2 * exact.norm()


def test_weights_in_bf16_run_without_autocast() -> None:
    module, x = layer("residual").bfloat16(), tokens(BATCH)
    out = module(x.replace(x.feats.bfloat16()), plan_of(x, module)).feats
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_complaints() -> None:
    module, x = layer("linear"), tokens(BATCH)
    with pytest.raises(ValueError, match="plan: is for 75 tokens and cell 4, needed are 75 .* 8"):
        module(x, build_plan(x.grid.coords, cell=4))
    with pytest.raises(ValueError, match="plan: is for 3 tokens and cell 8, needed are 75"):
        module(x, plan_of(tokens([3]), module))
    with pytest.raises(ValueError, match="kv_heads: got 3, they must divide the 4 heads"):
        layer("linear", kv_heads=3)
    with pytest.raises(ValueError, match="compression: got 'conv', it must be one of"):
        SpatialSparseAttention(
            8,
            heads=1,
            kv_heads=1,
            head_dim=8,
            top_k=1,
            cell=4,
            compression="conv",  # type: ignore[arg-type]
        )


def released(version: str) -> SpatialSparseAttention:
    kind: Any = {"1.0": "residual", "1.1": "linear"}[version]
    with torch.device("meta"):
        return SpatialSparseAttention(
            1024, heads=32, kv_heads=2, head_dim=32, top_k=8, cell=RELEASED[kind], compression=kind
        )


def released_names(version: str) -> dict[str, tuple[int, ...]]:
    cell = {"1.0": 4, "1.1": 8}[version]
    names: dict[str, tuple[int, ...]] = {
        "intra_block_pe": (cell, cell, cell, 64), "proj_q.weight": (1024, 1024),
        "proj_k.weight": (64, 1024), "proj_v.weight": (64, 1024), "proj_o.weight": (1024, 1024),
        "gate.0.weight": (3, 1024),
    }  # fmt: skip
    for which in ("compression_key", "compression_value"):
        if version == "1.1":
            names[f"{which}.act_layers.0.conv.kernel"] = (64, 64)
            names[f"{which}.act_layers.0.conv.bias"] = (64,)
            continue
        for norm in ("act_layers.0", "out_layers.1"):
            names[f"{which}.{norm}.weight"] = names[f"{which}.{norm}.bias"] = (64,)
        for conv in ("out_layers.0", "out_layers.3"):
            names[f"{which}.{conv}.conv.kernel"] = (27, 64, 64)
            names[f"{which}.{conv}.conv.bias"] = (64,)
    return names


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_released_layers_have_these_tensors(version: str) -> None:
    found = {name: tuple(value.shape) for name, value in released(version).state_dict().items()}
    assert found == released_names(version)


def test_released_counts() -> None:
    """584 and 874 tensors, 509.3 and 520.1 million parameters: what differs is this layer (24 of
    it) and the projection of the conditions (1024² + 1024, two tensors)."""
    old, new = (released(version).state_dict() for version in ("1.0", "1.1"))
    assert 24 * (len(old) - len(new)) + 2 == 874 - 584
    count = [sum(value.numel() for value in state.values()) for state in (old, new)]
    assert count == [2_678_528, 2_272_384]
    assert 24 * (count[0] - count[1]) + 1024 * 1025 == pytest.approx(520.1e6 - 509.3e6, abs=0.1e6)


def test_released_initialisation() -> None:
    torch.manual_seed(0)
    module = SpatialSparseAttention(
        256, heads=8, kv_heads=2, head_dim=32, top_k=8, cell=4, compression="residual"
    )
    assert not module.intra_block_pe.any()
    for name in ("proj_q", "proj_k", "proj_v", "proj_o", "gate.0"):
        weight = module.get_submodule(name).weight.detach()
        bound = (6 / sum(weight.shape)) ** 0.5
        assert bound * 0.95 < weight.abs().max() <= bound
    kernel = module.compression_value.out_layers[3].conv.kernel.detach()
    assert 0.95 < kernel.abs().max() * (27 * 64) ** 0.5 <= 1.0  # not zero: as the release

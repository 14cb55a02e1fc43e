"""Products of a training step by hand and as PyTorch counts them; the rival is full attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ss_dit import flops, full_attention
from benchmarks.ss_dit.cases import MODELS, TOY, Batch, build, make_batch
from benchmarks.ss_dit.step import TrainingStep
from benchmarks.ssa import rivals
from benchmarks.ssa.coordinates import CoordinateSet
from threed_gen.models.ss_dit import SSDiT, SSDiTConfig, attention_plan
from threed_gen.sparse.sparse_tensor import SparseTensor

# Two blocks of 4 and 2 tokens; windows of the other shift hold 3 and 3.
XYZ = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [7, 0, 0], [8, 0, 0], [9, 0, 0]], np.int32)
BRANCHES = ("compression", "score + top-k", "selection", "window")
CPU = torch.device("cpu")


def six_tokens(name: str, samples: int = 1, **changes: Any) -> tuple[SSDiTConfig, Batch]:
    config = MODELS[name](**(TOY | {"backend": "cpu"} | changes))
    sets = [CoordinateSet(f"{i}", "by hand", 128, XYZ) for i in range(samples)]
    return config, make_batch(sets, config, 7, "cpu")


def counted(training: TrainingStep, full: bool) -> flops.Total:
    if full:
        return flops.count(training.model.config, training.batch, None)
    with torch.no_grad(), flops.choices() as found:
        training.forward()
    sizes = [one for _, one in found]
    return flops.count(training.model.config, training.batch, sizes)


def test_products_of_the_branches_by_hand() -> None:
    config, batch = six_tokens("1.1")
    parts = counted(TrainingStep(build(config, "cpu"), batch, half=False), full=False).parts
    wide = 4 * 16  # heads times their width
    forward = {  # 6 queries, 2 cells, all 6 tokens chosen, windows of 4² + 2² and 3² + 3²
        "compression": 2 * 4 * 6 * 2 * wide, "score + top-k": 2 * 2 * 6 * 2 * wide,
        "selection": 2 * 4 * 6 * 6 * wide, "window": 4 * (20 + 18) * wide,
    }  # fmt: skip
    assert {name: parts[name].forward for name in BRANCHES} == forward
    assert {name: parts[name].backward / parts[name].forward for name in BRANCHES} == {
        "compression": 2, "score + top-k": 0, "selection": 2, "window": 2,
    }  # fmt: skip
    assert {name: parts[name].executed / parts[name].forward for name in BRANCHES} == {
        "compression": 2.5, "score + top-k": 0, "selection": 3.5, "window": 2.5,
    }  # fmt: skip
    assert parts["score + top-k"].again == 0
    assert parts["cells"].forward == 2 * 2 * (2 * 6 * 32 * 32)


def test_products_of_full_attention_by_hand() -> None:
    config, batch = six_tokens("1.1", samples=3)
    total = flops.count(config, batch, None)
    pairs = 3 * 6 * 6  # 4·N²·H·D: two products of a multiplication and an addition each
    assert total.parts["attention"] == flops.Products(*(2 * x * pairs * 64 for x in (4, 8, 10, 4)))
    projections = 2 * (2 * 18 * 32) * (64 + 32 + 32 + 64)
    assert total.parts["projections"].forward == projections
    cross = 2 * (2 * 18 * 32 * 64 * 2 + 2 * 21 * 16 * 128 + 4 * 3 * 6 * 7 * 64)
    assert total.parts["cross-attention"].forward == cross


@pytest.mark.parametrize("name", ["1.1", "1.0, top-k 32"])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("checkpoint", ["none", "blocks"])
def test_products_as_pytorch_counts_them(name: str, full: bool, checkpoint: str) -> None:
    config, batch = six_tokens(name, checkpoint=checkpoint)
    model = build(config, "cpu")
    if full:
        full_attention.replace_attention(model, full_attention.dense)
    training = TrainingStep(model, batch, half=False)
    total = counted(training, full)
    unseen = [] if full else [*BRANCHES, *(["cells"] if "1.0" in name else [])]  # our own operators
    parts = [part for key, part in total.parts.items() if key not in unseen]
    wanted = sum(part.forward + part.backward for part in parts)
    if checkpoint == "blocks":
        wanted += sum(part.again for part in parts)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        training.forward_backward()
    assert counter.get_total_flops() == wanted
    executed = sum(part.forward + part.executed for part in total.parts.values())
    recomputed = sum(part.again for part in total.parts.values())
    assert total.executed == executed + (recomputed if checkpoint == "blocks" else 0)
    assert total.model == sum(part.forward + part.backward for part in total.parts.values())


def test_neighbours_of_cells_are_counted() -> None:
    config, batch = six_tokens("1.0, top-k 32")
    total = counted(TrainingStep(build(config, "cpu"), batch, half=False), full=False)
    # cells of 4³ at x = 0, 1, 2: 3 see themselves, and 2 pairs each other
    assert total.parts["cells"].forward == 2 * 2 * 2 * (2 * (3 + 2 + 2) * 32 * 32)


def by_hand(layer: full_attention.FullAttention, x: Tensor, lengths: list[int]) -> Tensor:
    """Softmax over a masked matrix of all tokens, head by head."""
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    apart = sample[:, None] != sample[None, :]
    width, shared = layer.head_dim, layer.heads // layer.kv_heads
    q, k, v = (p(x) for p in (layer.proj_q, layer.proj_k, layer.proj_v))
    heads = []
    for head in range(layer.heads):
        mine = slice(head * width, (head + 1) * width)
        theirs = slice(head // shared * width, (head // shared + 1) * width)
        scores = q[:, mine] @ k[:, theirs].T / math.sqrt(width)
        heads.append(scores.masked_fill(apart, -torch.inf).softmax(1) @ v[:, theirs])
    return layer.proj_o(torch.cat(heads, dim=1))


def of_2_13(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
            *, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    assert enable_gqa or q.shape[1] == k.shape[1]
    return full_attention.dense(q, k, v, cu_q, max_q, cu_q.diff().tolist())


def of_2_10(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
            is_causal: bool = True) -> Tensor:  # fmt: skip
    assert not is_causal
    if q.shape[1] != k.shape[1]:
        raise RuntimeError("as many KV heads as query heads, please")
    return full_attention.dense(q, k, v, cu_q, max_q, cu_q.diff().tolist())


@pytest.mark.parametrize("way", [None, of_2_13, of_2_10])
def test_the_rival_is_softmax_attention_in_each_sample(
    way: Callable[..., Tensor] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = full_attention.dense
    if way is not None:
        monkeypatch.setattr(rivals, "torch_varlen", lambda: way)
        label, attend = full_attention.variable_length(CPU)
        assert ("repeated" in label) == (way is of_2_10)
    config = MODELS["1.1"](**(TOY | {"backend": "cpu"}))
    sets = [CoordinateSet("a", "a", 128, XYZ), CoordinateSet("b", "b", 128, XYZ[:3])]
    batch = make_batch(sets, config, 7, "cpu")
    model = full_attention.replace_attention(build(config, "cpu"), attend).double()
    layer = model.blocks[0].self_attn
    x = torch.randn(9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = layer(SparseTensor(x, batch.grid), attention_plan(batch.grid, config)).feats
    torch.testing.assert_close(found, by_hand(layer, x, [6, 3]), rtol=1e-12, atol=1e-12)
    names = {name for name, _ in layer.named_parameters()}
    assert names == {f"proj_{one}.weight" for one in "qkvo"}


def test_the_rival_is_the_same_model_where_all_is_one_window() -> None:
    """One block, window alone (its gate 1, the others 0): sparse attention is full attention."""
    config = MODELS["recommended"](**(TOY | {"backend": "cpu"}))
    batch = make_batch([CoordinateSet("a", "a", 64, XYZ[:3])], config, 7, "cpu")
    model = build(config, "cpu")
    for block in model.blocks:  # sigmoid of ±∞ as a gate: 0, 0, 1
        block.self_attn.gate = torch.nn.Sequential(Constant())
    x = SparseTensor(batch.x0, batch.grid)
    sparse = model(x, batch.t, batch.condition).feats
    full_attention.replace_attention(model, full_attention.dense)
    torch.testing.assert_close(model(x, batch.t, batch.condition).feats, sparse)


class Constant(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)


def test_no_parameter_starts_at_zero() -> None:
    config, _ = six_tokens("1.0, top-k 32")
    zero = [name for name, p in SSDiT(config).named_parameters() if not p.any()]
    assert any("adaLN" in name for name in zero)
    assert all(p.any() for p in build(config, "cpu").parameters())

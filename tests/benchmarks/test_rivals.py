"""Whom the benchmark compares with: every version of their functions is called as it wants."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ssa import official, rivals
from benchmarks.ssa.bench import tiny_bench
from benchmarks.ssa.problem import Shape

CPU = torch.device("cpu")


def plain(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
    """Packed attention for equal numbers of heads."""
    if q.shape[1] != k.shape[1]:
        raise RuntimeError("as many KV heads as query heads, please")
    parts = []
    for i in range(len(cu_q) - 1):
        rows, keys = slice(*cu_q[i : i + 2].tolist()), slice(*cu_k[i : i + 2].tolist())
        one, two, three = (x.transpose(0, 1) for x in (q[rows], k[keys], v[keys]))
        parts.append(F.scaled_dot_product_attention(one, two, three).transpose(0, 1))
    return torch.cat(parts)


def grouped(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return plain(q, k, v, cu_q, cu_k)


def torch_2_10(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int,
    max_k: int, is_causal: bool = False, return_aux: Any = None,
) -> Any:  # fmt: skip
    assert not is_causal
    out = grouped(query, key, value, cu_seq_q, cu_seq_k)
    return out if return_aux is None else (out, query.new_zeros(query.shape[1], len(query)))


def torch_2_11(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int,
    max_k: int, *, return_aux: Any = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:  # fmt: skip
    out = plain(query, key, value, cu_seq_q, cu_seq_k)
    return out if return_aux is None else (out, query.new_zeros(len(query), query.shape[1]))


def torch_2_13(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int,
    max_k: int, *, return_aux: Any = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    num_splits: int | None = None,
) -> Any:  # fmt: skip
    if not enable_gqa:
        return plain(query, key, value, cu_seq_q, cu_seq_k)
    return grouped(query, key, value, cu_seq_q, cu_seq_k)


def test_options_of_each_version() -> None:
    assert rivals.varlen_options(torch_2_10, grouped=True) == {"is_causal": False}
    assert rivals.varlen_options(torch_2_11, grouped=True) == {}
    assert rivals.varlen_options(torch_2_13, grouped=True) == {"enable_gqa": True}
    assert rivals.varlen_options(torch_2_13, grouped=False) == {}
    assert "enable_gqa" in rivals.varlen_options(rivals.torch_varlen(), grouped=True)  # this torch


@pytest.mark.parametrize(
    ("function", "takes"), [(torch_2_10, True), (torch_2_11, False), (torch_2_13, True)]
)
def test_fewer_kv_heads_are_tried_out(
    function: Any, takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "torch_varlen", lambda: function)
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # not installed
    assert rivals.takes_groups(rivals.varlen(function), CPU) == takes
    rival = rivals.find("FA2", CPU)
    assert ("repeated" in rival.label) == (not takes)
    assert "varlen_attn" in rival.label
    assert rivals.takes_groups(rival.attend, CPU)


def test_wrong_gradients_are_not_taken() -> None:
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad / 2

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Any, of_k: Any) -> Tensor:
        return grouped(q, Half.apply(k), v, of_q[0], of_k[0])  # type: ignore[no-untyped-call]

    assert not rivals.takes_groups(attend, CPU)


@pytest.mark.parametrize("function", [torch_2_10, torch_2_11])
def test_lse_is_heads_first(function: Any) -> None:
    q, k = torch.randn(7, 2, 8), torch.randn(5, 2, 8)
    starts = [(torch.tensor([0, n], dtype=torch.int32), n) for n in (7, 5)]
    out, lse = rivals.varlen(function, return_lse=True)(q, k, k, *starts)
    assert out.shape == q.shape
    assert lse.shape == (2, 7)


def test_the_package_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("flash_attn")
    package.__version__ = "2.8"

    def call(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
        causal: bool = False,
    ) -> Tensor:  # fmt: skip
        return grouped(q, k, v, cu_q, cu_k)

    package.flash_attn_varlen_func = call
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    assert rivals.find("FA2", CPU).label == "flash-attn 2.8"


def test_fa3_is_switched_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    active: list[str] = []
    attention = torch.nn.attention
    monkeypatch.setattr(attention, "activate_flash_attention_impl", active.append, raising=False)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", active.pop, raising=False)
    monkeypatch.setattr(rivals, "torch_varlen", lambda: torch_2_13)
    rival = rivals.find("FA3", CPU)
    assert active == []
    with rival.active():
        assert active == ["FA3"]
    assert active == []


def test_what_is_not_there_says_why() -> None:
    bench = tiny_bench()
    for name in rivals.RIVALS:  # none runs on a CPU
        found = rivals.measure(bench, name, "8k", Shape(4, 16))
        assert "forward_ms" not in found
        assert found["refused"]


def test_a_rival_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "torch_varlen", lambda: torch_2_13)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    found = rivals.measure(tiny_bench(), "FA2", "8k", Shape(4, 16))
    assert found["forward_ms"] > 0
    assert found["backward_ms"] > 0


def test_no_checkout_no_figures(tmp_path: Path) -> None:
    bench = dataclasses.replace(tiny_bench(), compare=tmp_path)
    from benchmarks.ssa.rows import Row

    found = official.measure(bench, Row("8k", 4, Shape(4, 16), "local"))
    assert "no checkout" in found["refused"]

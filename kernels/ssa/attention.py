"""The door to Spatial Sparse Attention: checks its arguments and picks an implementation."""

from __future__ import annotations

import functools
import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.ssa import ops
from kernels.ssa.plan import SSAPlan
from kernels.ssa.reference import ssa_reference

Backend = Literal["auto", "reference", "cpu", "triton"]


def spatial_sparse_attention(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, k_cmp_MGD: Tensor, v_cmp_MGD: Tensor,
    gates_N3: Tensor, *, plan: SSAPlan, top_k: int, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    """Compression, selection and window attention, added up by their gates. Returns [N, H, D].

    q_NHD: queries of N tokens, H heads; k_NGD, v_NGD: G KV heads, each serving H / G query heads;
    k_cmp_MGD, v_cmp_MGD: one compressed key and value per occupied cell, in the plan's order;
    gates_N3: weights (after the sigmoid) of compression, selection, window; top_k: blocks that each
    token and KV head selects. Softmax scale D^-0.5.

    Raises ValueError naming the argument, what it got and what it needs.
    """
    _check(q_NHD, k_NGD, v_NGD, k_cmp_MGD, v_cmp_MGD, gates_N3, plan, top_k, backend)
    if not plan.tokens:
        return q_NHD
    if backend == "reference":
        return ssa_reference(q_NHD, k_NGD, v_NGD, k_cmp_MGD, v_cmp_MGD, gates_N3, plan, top_k)
    chosen = _chosen(backend, q_NHD)
    q, k, v, k_cmp, v_cmp, gates = (
        x.contiguous() for x in (q_NHD, k_NGD, v_NGD, k_cmp_MGD, v_cmp_MGD, gates_N3)
    )
    compressed, lse = ops.compression(q, k_cmp, v_cmp, plan, chosen)
    blocks = ops.select_blocks(q, k_cmp, lse, plan, top_k, chosen)
    selected = ops.selection(q, k, v, blocks, plan, chosen)
    near = ops.window(q, k, v, plan, chosen)
    return ops.combine(compressed, selected, near, gates, chosen)


def _chosen(backend: str, q: Tensor) -> str:
    if backend == "auto":
        backend = "cpu" if q.device.type == "cpu" else "triton"
        if not torch.compiler.is_compiling():
            _say_once(backend, q.device.type)
    return backend


@functools.cache
def _say_once(backend: str, device: str) -> None:
    logging.getLogger(__name__).info("spatial sparse attention on %s: %s", device, backend)


def _check(
    q: Tensor, k: Tensor, v: Tensor, k_cmp: Tensor, v_cmp: Tensor, gates: Tensor, plan: SSAPlan,
    top_k: int, backend: str,
) -> None:  # fmt: skip
    if backend not in get_args(Backend):
        raise ValueError(f"backend: got {backend!r}, it must be one of {get_args(Backend)}")
    if top_k < 1:
        raise ValueError(f"top_k: got {top_k}, it must be at least 1")
    if q.ndim != 3 or k.ndim != 3:
        name, got = ("q_NHD", q) if q.ndim != 3 else ("k_NGD", k)
        raise ValueError(f"{name}: got shape {list(got.shape)}, it must have 3 dimensions")
    _, heads, width = q.shape
    groups = k.shape[1]
    if groups < 1 or heads % groups:
        raise ValueError(f"k_NGD: got {groups} KV heads, they must divide the {heads} query heads")
    wanted = {
        "q_NHD": (q, (plan.tokens, heads, width)),
        "k_NGD": (k, (plan.tokens, groups, width)),
        "v_NGD": (v, (plan.tokens, groups, width)),
        "k_cmp_MGD": (k_cmp, (plan.num_cells, groups, width)),
        "v_cmp_MGD": (v_cmp, (plan.num_cells, groups, width)),
        "gates_N3": (gates, (plan.tokens, 3)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, it must be {list(shape)}")
        if not tensor.is_floating_point() or tensor.dtype != q.dtype:
            raise ValueError(f"{name}: got {tensor.dtype}, it must be the floating {q.dtype} of q")
        if tensor.device != plan.device:
            raise ValueError(f"{name}: is on {tensor.device}, the plan is on {plan.device}")
    if backend == "cpu" and q.device.type != "cpu":
        raise ValueError(f"backend: got 'cpu' for tensors on {q.device}; move them, or use 'auto'")

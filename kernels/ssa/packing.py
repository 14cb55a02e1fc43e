"""A plan as lists of tensors and integers, which is what an operator of PyTorch can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor

from kernels.ssa.plan import SSAPlan, WindowTable
from kernels.ssa.tables import QUERY_TILES, DenseTables, Readers, Runs, Tiles, Walk

FIELDS: dict[type, dict[str, Any]] = {
    kind: get_type_hints(kind)
    for kind in (SSAPlan, WindowTable, DenseTables, Readers, Walk, Tiles, Runs)
}


def pack(plan: SSAPlan) -> tuple[list[Tensor], list[int]]:
    """The plan as what an operator of PyTorch can take; `unpack` undoes it."""
    tensors: list[Tensor] = []
    sizes: list[int] = []
    _flatten(plan, tensors, sizes)
    return tensors, sizes


def unpack(tensors: Sequence[Tensor], sizes: Sequence[int]) -> SSAPlan:
    """The plan that `pack` took apart."""
    plan: SSAPlan = _rebuild(SSAPlan, iter(tensors), iter(sizes))
    return plan


def _flatten(value: Any, tensors: list[Tensor], sizes: list[int]) -> None:
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, int):
        sizes.append(value)
    elif isinstance(value, tuple):
        for item in value:
            _flatten(item, tensors, sizes)
    else:
        for name in FIELDS[type(value)]:
            _flatten(getattr(value, name), tensors, sizes)


def _rebuild(kind: Any, tensors: Iterator[Tensor], sizes: Iterator[int]) -> Any:
    if kind is Tensor:
        return next(tensors)
    if kind is int:
        return next(sizes)
    if get_origin(kind) is tuple:  # all tuples of a plan hold one kind, of a length known here
        item, *more = get_args(kind)
        length = len(QUERY_TILES) if more == [Ellipsis] else 1 + len(more)
        return tuple(_rebuild(item, tensors, sizes) for _ in range(length))
    return kind(*(_rebuild(hint, tensors, sizes) for hint in FIELDS[kind].values()))

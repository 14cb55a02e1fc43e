"""Acting as one: what one rank finds out, all ranks learn, errors included.

An error that only one rank met must not leave the others waiting in a collective call until its
timeout: all of them stop with the same line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from threed_gen.errors import UserError

T = TypeVar("T")


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run `action` on rank 0; every rank returns its (picklable) result or raises its error."""
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        box[0] = _attempt(action)
    dist.broadcast_object_list(box, src=0)
    return _unwrap(box[0])


def on_every_rank(action: Callable[[], T]) -> list[T]:
    """Run `action` on all ranks; each gets all results in rank order, or raises the first error."""
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, _attempt(action))
    return [_unwrap(outcome) for outcome in outcomes]


def everywhere(action: Callable[[], T]) -> T:
    """Run `action` on all ranks; each keeps its own result, an error on any is raised on all."""
    own = _attempt(action)
    errors: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, own[1])
    for error in errors:
        _unwrap((None, error))
    return own[0]  # type: ignore[return-value]


def _attempt(action: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return action(), None
    except UserError as err:
        # Subclasses may hold what does not travel between processes; line and code do.
        plain = UserError(str(err))
        plain.exit_code = err.exit_code
        plain.shared = True
        return None, plain


def _unwrap(outcome: tuple[Any, UserError | None]) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value

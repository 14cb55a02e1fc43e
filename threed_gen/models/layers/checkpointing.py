"""Activation checkpointing that recomputes everything but the choice of attention blocks.

Recomputation gives nearly, not exactly, the same scores (another kernel configuration, another
order of sums), and a block that wins forward may lose then: the gradient would be that of another
function. So what chooses is kept: a few bytes per token and layer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from kernels.ssa import KEPT_OPS

T = TypeVar("T")


def checkpoint_block(block: Callable[..., T], *args: Any) -> T:
    """block(*args), whose activations are recomputed in backward; outputs of KEPT_OPS are kept.

    For blocks without random numbers: the generator's state is not restored.
    """
    out: T = checkpoint(
        block, *args, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts
    )
    return out


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    forward, recompute = create_selective_checkpoint_contexts(list(KEPT_OPS))
    return forward, recompute

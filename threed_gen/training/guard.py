"""Steps that must not count: a loss or gradient that is not finite, or a loss far above the others.

By default such a step ends the run, with nothing of it saved. With `train.max_skips` it is left
out instead: the optimiser does not move, the average does not move, the step is counted and
journalled, and only after so many skips in a row the run stops. Every rank decides from the same
numbers, so all decide alike; the few numbers behind the decision are part of each checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from threed_gen.training.run_config import TrainConfig

AVERAGING = 0.98  # of the running average that a spike is measured against
GRACE = 100  # accepted steps before an average means something


@dataclass
class GuardState:
    """What the guard remembers between steps."""

    average: float = 0.0  # of accepted losses
    accepted: int = 0
    skipped: int = 0
    in_row: int = 0


class StepGuard:
    """Judges each step's loss and gradient norm."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.state = GuardState()

    def judge_loss(self, loss: float, finite: bool) -> str | None:
        """Why a step of this mean loss must not count; None: it may.

        Args:
            finite: whether the loss of every sample is.
        """
        if not finite:
            return f"the loss is {loss}"
        factor, state = self.config.spike_factor, self.state
        if factor is not None and state.accepted >= GRACE and loss > factor * state.average:
            return f"the loss is {loss:.4g}, {loss / state.average:.1f} times its running average"
        return None

    def judge_norm(self, norm: float) -> str | None:
        """The same for the global gradient norm before clipping."""
        return None if math.isfinite(norm) else f"the gradient norm is {norm}"

    def accept(self, loss: float) -> None:
        """The step counts."""
        state = self.state
        keep = min(AVERAGING, state.accepted / (state.accepted + 1))
        state.average = keep * state.average + (1 - keep) * loss
        state.accepted += 1
        state.in_row = 0

    def skip(self) -> bool:
        """The step does not count; returns whether the run must stop for it."""
        self.state.skipped += 1
        self.state.in_row += 1
        return self.state.in_row > self.config.max_skips

    def saved(self) -> dict[str, Any]:
        """As JSON, for the checkpoint."""
        return asdict(self.state)

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what a checkpoint says."""
        self.state = GuardState(**saved)


class Gate:
    """A door before the optimiser's update. DeepSpeed goes through it at every ZeRO stage.

    Closed, the optimiser is not called: parameters and moments stay as they are, while DeepSpeed
    does all of its own clearing up after a step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.closed = False
        step = optimizer.step

        def gated(*args: Any, **kwargs: Any) -> Any:
            return None if self.closed else step(*args, **kwargs)

        optimizer.step = gated  # type: ignore[method-assign]

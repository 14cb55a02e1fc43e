"""A number of a check, the limit that it must keep, and the project's limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

HALF = (4e-3, 8e-3)  # relative L2 of the result, of gradients
OUTPUT_GRADIENT = {
    torch.bfloat16: HALF, torch.float16: HALF, torch.float32: (2e-6, 5e-6),
}  # fmt: skip
LSE = 1e-5  # absolute, or relative to an LSE above 1
SMALL = 0.1  # norm below which a gradient is zero by cancellation


@dataclass(frozen=True)
class Finding:
    """A number that must not exceed its limit; NaN fails."""

    what: str
    value: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.value <= self.limit

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def relative(got: Tensor, wanted: Tensor) -> float:
    """L2 norm of the difference over that of what is wanted."""
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).norm() / wanted.norm().clamp(min=SMALL))


def largest(*values: float) -> float:
    """NaN where one is, unlike Python's `max`."""
    return float(torch.tensor(values, dtype=torch.float64).max())

"""Exponential moving average of the weights, sharded the way ZeRO shards the parameters.

Each rank averages only the fp32 values that it owns, so the average costs 4 bytes per owned
parameter and no communication. It is part of every checkpoint; validation, reconstruction and
exported weights use it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threed_gen.training.master import MasterState


class EMA:
    """`average ← d·average + (1 − d)·parameters`, with d rising to `decay` over the first steps."""

    def __init__(self, master: MasterState, decay: float) -> None:
        self.master, self.decay = master, decay
        self.averages: list[Tensor] = [flat.detach().clone().float() for flat in master.flats]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` (1-based).

        The decay is capped at (1 + step) / (10 + step), as usual, so that a short run's average
        is not made of its random start.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, flat in zip(self.averages, self.master.flats, strict=True):
            average.lerp_(flat.detach(), 1 - decay)

"""What each stage of a generation took: seconds, and the most memory it held at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from threed_gen.data.usage import MB, Meter
from threed_gen.errors import UserError

HEADERS = ("stage", "seconds", "peak GB")


@dataclass
class Spent:
    """Of one stage, over all its calls."""

    seconds: float = 0.0
    peak_mb: float = 0.0


class Account:
    """Keeps the books; `with account.of("decode"): …` as often as there is something to do."""

    def __init__(self, device: torch.device) -> None:
        """`device`: a GPU's own memory is what counts there, the process's elsewhere."""
        self.device = device
        self.stages: dict[str, Spent] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count what happens inside to `stage`; a GPU that is full becomes one line."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        meter = Meter()
        try:
            yield
            if on_gpu:
                torch.cuda.synchronize(self.device)
        except torch.OutOfMemoryError as err:
            raise UserError(
                f"the {stage} does not fit into the GPU's memory; give --batch 1, no --one-pass, "
                "and a smaller --chunk (8 needs the least)"
            ) from err
        peak = torch.cuda.max_memory_allocated(self.device) / MB if on_gpu else meter.peak_mb
        spent = self.stages.setdefault(stage, Spent())
        spent.seconds += meter.seconds
        spent.peak_mb = max(spent.peak_mb, peak)

    def rows(self) -> list[tuple[str, str, str]]:
        """One row for each stage, for people."""
        return [
            (stage, f"{spent.seconds:.1f}", f"{spent.peak_mb / 1000:.2f}")
            for stage, spent in self.stages.items()
        ]

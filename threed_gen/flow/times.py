"""When to look: the density of training times, and the ladder of times that a sampler goes down.

Both know one knob, the resolution shift (Esser et al. 2024, "SD3", eq. 23)

    t' = s·t / (1 + (s − 1)·t),        that is        logit t' = logit t + log s:

more tokens average more noise away, so large latents need more of the noisy end (s > 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from threed_gen.config import Config
from threed_gen.flow.path import Draw

Spacing = Literal["even", "diffusers"]

# Steps of the discrete schedule that diffusers lays under its sampler.
DIFFUSERS_STEPS = 1000


class TimeDensityConfig(Config):
    """How often training looks at each time.

    Direct3D-S2 does not say; the defaults are those of Trellis' released flows (logit-normal(1, 1),
    no shift), whose structure it follows.
    """

    density: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: float = 1.0  # of logit t; only for logit_normal (SD3, eq. 19)
    std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)  # resolution shift of the drawn times


def draw_times(config: TimeDensityConfig, draw: Draw, indices: Sequence[int]) -> Tensor:
    """One time per sample.

    Args:
        indices: each sample's index in the global batch.

    Returns:
        [B] in [0, 1], float32 on the CPU.
    """
    times = [_draw_time(config, draw("flow_time", index)) for index in indices]
    return torch.tensor(times, dtype=torch.float32)


def _draw_time(config: TimeDensityConfig, generator: torch.Generator) -> float:
    if config.density == "uniform":
        t = torch.rand((), generator=generator, dtype=torch.float64).item()
    else:
        z = torch.randn((), generator=generator, dtype=torch.float64)
        t = torch.sigmoid(config.mean + config.std * z).item()
    return shift_time(t, config.shift)


def shift_time(t: float, shift: float) -> float:
    """Resolution shift of a time in [0, 1] (SD3, eq. 23); `shift` = √(m/n) of that equation."""
    return shift * t / (shift * t + (1 - t))  # so written, 1 stays exactly 1


def sampling_times(steps: int, shift: float = 1.0, spacing: Spacing = "even") -> list[float]:
    """The times of a sampler, from 1 (noise) down to 0 (data).

    "even": steps + 1 evenly spaced times, then shifted (SD3; Trellis calls the shift `rescale_t`).

    "diffusers": what the released Direct3D-S2 pipeline runs, a FlowMatchEulerDiscreteScheduler.
    That one shifts twice: it takes `steps` times from 1 down to the *already shifted* 1/1000,
    shifts these, and appends 0. (Shift 6, 50 steps: the last step starts at 0.035, not at 0.109.)
    The pipeline also rounds each time to fp16 for the embedding; we do not.

    Args:
        steps: number of intervals, at least 1.
        shift: released: 6 for the dense stage and 512, 8 for 1024.

    Returns:
        steps + 1 strictly decreasing times, the first 1 and the last 0, in double precision.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, not {steps}")
    if spacing == "even":
        return [shift_time(1 - i / steps, shift) for i in range(steps + 1)]
    last = shift_time(1 / DIFFUSERS_STEPS, shift)
    ladder = [1 - (1 - last) * i / max(steps - 1, 1) for i in range(steps)]
    return [*(shift_time(t, shift) for t in ladder), 0.0]

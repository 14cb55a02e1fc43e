"""What the validations of all tasks share: bad samples, fixed draws, and the loss at fixed times.

Noise and times are drawn from a shape's name alone, so the loss of two checks, and of two runs,
differs by the model and by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from threed_gen.console import say
from threed_gen.errors import UserError
from threed_gen.flow.loss import flow_loss
from threed_gen.flow.path import Draw, Velocity, draw_noise, interpolate, velocity_target
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.randomness import generator
from threed_gen.training.run_config import RunConfig

T = TypeVar("T")


def readable(
    indices: Sequence[int], read: Callable[[int, int], T], config: RunConfig
) -> Iterator[tuple[int, T]]:
    """What `read(index, resolution)` gives of each sample, at the largest resolution of the run.

    A bad sample ends the validation, or is left out and named, as `data.on_bad_sample` says.
    """
    resolution = max(config.data.resolutions)
    for index in indices:
        try:
            found = read(index, resolution)
        except UserError as err:
            if config.data.on_bad_sample == "stop":
                raise
            say(f"validation leaves out a bad sample: {err}")
            continue
        yield index, found


def precision(config: RunConfig, device: torch.device) -> torch.autocast:
    """The arithmetic of the run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16")


def draws_of(name: str) -> Draw:
    """Draws that belong to a shape, whatever the run, the step and the rank."""
    return lambda purpose, index: generator(0, index, f"validation {purpose} of {name}")


def fixed_loss(
    velocity: Velocity[PackedTokens], x0: Tensor, condition: PackedTokens, name: str, times: int
) -> float:
    """Mean loss of one shape, x0 [N, C], at the times (k + ½) / `times`.

    Each time has its own fixed noise.
    """
    draw, lengths, losses = draws_of(name), [len(x0)], []
    for k in range(times):
        noise = draw_noise(draw, [k], lengths, x0.shape[1]).to(x0.device)
        t = torch.full((1,), (k + 0.5) / times, device=x0.device)
        said = velocity(interpolate(x0, noise, t, lengths), t, condition)
        losses.append(flow_loss(said, velocity_target(x0, noise), lengths))
    return float(torch.cat(losses).double().mean())

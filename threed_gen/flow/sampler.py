"""From noise to data: Euler's and Heun's methods along dx/dt = v(x, t), from t = 1 down to 0.

Euler (first order, one evaluation per step) is what Direct3D-S2 and Trellis release. Heun (second
order, two evaluations) is Karras et al. 2022, algorithm 1 without churn: predict with Euler, then
average the velocities at both ends. Its last step is Euler's, as there: the model need not answer
at t = 0, where training hardly looks, and the order stays 2. The state is fp32 (fp64 for fp64
noise) whatever the model computes in; the released pipeline rounds it to fp16 after every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from threed_gen.config import Config
from threed_gen.flow.guidance import GuidanceConfig, Pair, guided_velocity
from threed_gen.flow.path import C, Velocity, wide
from threed_gen.flow.times import Spacing, sampling_times


class SamplerConfig(Config):
    """How to sample. The defaults are those released for 512³.

    Dense stage: 50 steps, shift 6. 1024³: 15 steps, shift 8.
    """

    method: Literal["euler", "heun"] = "euler"
    steps: int = Field(default=30, ge=1)
    shift: float = Field(default=6.0, gt=0)
    spacing: Spacing = "diffusers"  # released; "even" is that of SD3 and Trellis
    guidance: GuidanceConfig = GuidanceConfig()


def sample(
    model: Velocity[C],
    noise: Tensor,
    batch_size: int,
    condition: C,
    null_condition: C,
    config: SamplerConfig,
    pair: Pair[C] | None = None,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Follow the flow from noise to data, without gradients.

    Args:
        model: (x_t [N, C], t [B], condition) -> v [N, C].
        noise: x at t = 1, [N, C]; for equal samples on any machine draw it with `draw_noise`.
        batch_size: B, samples packed into N rows.
        null_condition: what guidance leads away from; never shown to the model at guidance 1.
        pair: where both flows are wanted, asks for them in one call.
        on_step: called after every step.

    Returns:
        x at t = 0, [N, C], float32 (float64 for float64 noise).
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        return guided_velocity(
            model, x, t, batch_size, condition, null_condition, config.guidance, pair
        )

    times = sampling_times(config.steps, config.shift, config.spacing)
    x = wide(noise)
    with torch.no_grad():
        for t, t_next in zip(times[:-1], times[1:], strict=True):
            slope = velocity(x, t)
            if config.method == "heun" and t_next > 0:
                ahead = x + (t_next - t) * slope
                slope = (slope + velocity(ahead, t_next)) / 2
            x = x + (t_next - t) * slope
            if on_step is not None:
                on_step()
    return x

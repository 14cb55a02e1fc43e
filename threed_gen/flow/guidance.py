"""Classifier-free guidance: forgetting the condition in training, leaning on it in sampling.

    v = v(∅) + w·(v(c) − v(∅))        (Ho & Salimans 2022, eq. 6, there w = 1 + their w)

w = 0 is the unconditional flow and w = 1 the conditional one; either costs one call of the model,
all others two. Guidance is applied within an interval of times only (Kynkäänniemi et al. 2024);
outside it the flow is the conditional one. Trellis' `cfg_strength` is w − 1. The released
Direct3D-S2 pipeline takes w = 7 over all times; its guidance 0 means *conditional*, ours does not.

Both flows can be asked for in two calls, one behind the other, as the released pipeline does, or in
one call of twice the samples (`Pair`): the same numbers up to rounding, more memory, and less time
where a call of one sample leaves a GPU half idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from pydantic import Field, model_validator
from torch import Tensor

from threed_gen.config import Config
from threed_gen.flow.path import C, Draw, Velocity, per_token, wide


class GuidanceConfig(Config):
    """Strength of the guidance and the times, both ends included, at which it acts."""

    scale: float = Field(default=7.0, ge=0)  # w; released: 7
    from_time: float = Field(default=0.0, ge=0, le=1)  # released: all times
    to_time: float = Field(default=1.0, ge=0, le=1)
    one_pass: bool = False  # both flows in one call of 2B samples; released: two calls

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> GuidanceConfig:
        if self.from_time > self.to_time:
            raise ValueError(f"from_time {self.from_time} lies beyond to_time {self.to_time}")
        return self

    def scale_at(self, t: float) -> float:
        """w at time t: 1, the conditional flow, outside the interval."""
        return self.scale if self.from_time <= t <= self.to_time else 1.0


@dataclass(frozen=True)
class Pair(Generic[C]):
    """A model of twice the samples, and their conditions: all B with it, then all B without."""

    model: Velocity[C]  # (x [2N, C], t [2B], condition) -> v [2N, C]
    condition: C


def guided_velocity(
    model: Velocity[C],
    x: Tensor,
    t: float,
    batch_size: int,
    condition: C,
    null_condition: C,
    guidance: GuidanceConfig,
    pair: Pair[C] | None = None,
) -> Tensor:
    """The guided velocity of all samples at one time.

    Args:
        x: [N, C].
        batch_size: B, how many times the model is told `t`.
        null_condition: what the model saw in training where the condition was dropped.
        pair: asks for both flows in one call; None: in two.

    Returns:
        [N, C], float32 (or float64): at w = 7 the difference of two bf16 results is no longer
        rounded before it is enlarged.
    """
    times = torch.full((batch_size,), t, dtype=wide(x).dtype, device=x.device)
    scale = guidance.scale_at(t)
    if scale == 1:
        return wide(model(x, times, condition))
    if scale == 0:
        return wide(model(x, times, null_condition))
    if pair is not None:
        both = wide(pair.model(torch.cat([x, x]), times.repeat(2), pair.condition))
        conditional, unconditional = both.split(len(x))
    else:
        # One behind the other and in this order, as released: half the memory of one call with
        # both conditions, and the tables of the grid serve both.
        conditional = wide(model(x, times, condition))
        unconditional = wide(model(x, times, null_condition))
    return unconditional + scale * (conditional - unconditional)


def draw_dropped(probability: float, draw: Draw, indices: Sequence[int]) -> Tensor:
    """Which samples forget their condition in this step.

    Args:
        probability: unpublished for Direct3D-S2; Trellis 0.1.
        indices: each sample's index in the global batch.

    Returns:
        bool [B] on the CPU.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"condition dropout {probability} is no probability")
    drawn = [torch.rand((), generator=draw("flow_dropout", i)).item() for i in indices]
    return torch.tensor([number < probability for number in drawn], dtype=torch.bool)


def drop_condition(tokens: Tensor, lengths: Sequence[int], dropped: Tensor) -> Tensor:
    """The null condition for dropped samples: the same tokens, all zero (Direct3D-S2's null).

    Args:
        tokens: [M, D], packed condition tokens.
        lengths: each sample's number of condition tokens.
        dropped: bool [B].
    """
    # filled, not multiplied by 0: a dropped sample's tokens must not matter even where not finite
    mask = per_token(dropped.to(tokens.device), lengths)
    return tokens.masked_fill(mask, 0.0)

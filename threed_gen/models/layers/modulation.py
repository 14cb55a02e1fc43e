"""Time as shift, scale and gate of each sample, applied to the packed tokens of a whole batch.

One gather by a table of the grid instead of a loop over samples; the gradient of a sample's numbers
is a sum over its tokens without atomics (`segment_sum`). Two ways give the same function: plain
operations, and fused ones whose backward pass needs the input and two numbers per token only.
(adaLN: Peebles & Xie, arXiv 2212.09748 §3.2.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from threed_gen.sparse.norm import SegmentPlan, segment_sum

TIME_FREQUENCIES = 256
TIME_PERIOD = 10_000.0


class TimeEmbedder(nn.Module):
    """256 cosines, then sines, of the scaled times; linear, SiLU, linear. [B] -> [B, C]."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        first, last = nn.Linear(TIME_FREQUENCIES, channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        half, scaled = TIME_FREQUENCIES // 2, _wide(t) * self.scale
        steps = torch.arange(half, device=t.device, dtype=scaled.dtype)
        angle = scaled[:, None] * torch.exp(-math.log(TIME_PERIOD) / half * steps)
        waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        weight = next(self.mlp.parameters())
        out: Tensor = self.mlp(waves.to(weight.dtype))
        return out


def modulated_norm(
    x: Tensor, shift: Tensor, scale: Tensor, samples: SegmentPlan, *, eps: float, fused: bool
) -> Tensor:
    """norm(x) · (1 + scale) + shift, norm over the channels without affine parameters.

    x: [N, C]; shift, scale: [B, C], one row per sample; samples: `segment_plan` of x's grid.
    Computed in fp32 or wider; [N, C] in the dtype of x.
    """
    assert shift.shape == scale.shape == (len(samples.count), x.shape[1])
    if fused:
        out = _ModulatedNorm.apply(x, shift, scale, samples, eps)  # type: ignore[no-untyped-call]
        assert isinstance(out, Tensor)
        return out
    normed = F.layer_norm(_wide(x), x.shape[-1:], eps=eps)
    return (normed * (1 + per_token(scale, samples)) + per_token(shift, samples)).to(x.dtype)


def gated_residual(
    x: Tensor, y: Tensor, gate: Tensor, samples: SegmentPlan, *, fused: bool
) -> Tensor:
    """x + gate · y: x and y [N, C], gate [B, C]. In the dtype of x."""
    assert x.shape == y.shape and gate.shape == (len(samples.count), x.shape[1])
    if fused:
        out = _GatedResidual.apply(x, y, gate, samples)  # type: ignore[no-untyped-call]
        assert isinstance(out, Tensor)
        return out
    return (x + per_token(gate, samples) * y).to(x.dtype)


def per_token(values: Tensor, samples: SegmentPlan) -> Tensor:
    """Each sample's row of values [B, C] for each of its tokens, fp32 or wider. [N, C]."""
    out = _PerToken.apply(values, samples)  # type: ignore[no-untyped-call]
    assert isinstance(out, Tensor)
    return out


class _PerToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, samples: SegmentPlan) -> Tensor:
        ctx.samples, ctx.dtype = samples, values.dtype
        return _wide(values).index_select(0, samples.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return segment_sum(grad, ctx.samples).to(ctx.dtype), None


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, samples: SegmentPlan, eps: float
    ) -> Tensor:
        wide = _wide(x)
        mean = wide.mean(1, keepdim=True)  # [N, 1]
        centred = wide - mean
        rstd = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, scale, mean, rstd)
        ctx.samples, ctx.shift_dtype = samples, shift.dtype
        out = centred * rstd * (1 + _rows(scale, samples)) + _rows(shift, samples)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, rstd = ctx.saved_tensors
        grad, normed = _wide(grad), (_wide(x) - mean) * rstd
        grad_shift = segment_sum(grad, ctx.samples).to(ctx.shift_dtype)
        grad_scale = segment_sum(grad * normed, ctx.samples).to(scale.dtype)
        inner = grad * (1 + _rows(scale, ctx.samples))
        slope = (inner * normed).mean(1, keepdim=True)
        grad_x = rstd * (inner - inner.mean(1, keepdim=True) - normed * slope)
        return grad_x.to(x.dtype), grad_shift, grad_scale, None, None


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gate: Tensor, samples: SegmentPlan) -> Tensor:
        ctx.save_for_backward(y, gate)
        ctx.samples = samples
        return (_wide(x) + _rows(gate, samples) * y).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, gate = ctx.saved_tensors
        wide = _wide(grad)
        grad_gate = segment_sum(wide * y, ctx.samples).to(gate.dtype)
        return grad, (wide * _rows(gate, ctx.samples)).to(y.dtype), grad_gate, None


def _rows(values: Tensor, samples: SegmentPlan) -> Tensor:
    """`per_token` inside a function with a gradient of its own; one sample is left to broadcast."""
    wide = _wide(values)
    return wide if len(wide) == 1 else wide.index_select(0, samples.rows)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

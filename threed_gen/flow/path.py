"""The straight path between data and noise, and the velocity along it.

    x_t = (1 − t)·x0 + t·ε        v = dx_t/dt = ε − x0        (t = 0 data, t = 1 noise)

Rectified flow (Liu et al. 2022, eq. 1) in the convention of SD3 (Esser et al. 2024, eq. 13) and of
Direct3D-S2. Latents are packed: feats [N, C], and one time for each of the B samples. Everything
is a plain tensor, so that dense latents, flattened to [B·R³, C], take the same way; `on_grid` is
the bridge to models that want a voxel grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

C = TypeVar("C")  # whatever a model takes as its condition

# (x_t [N, C], t [B] in [0, 1], condition) -> v [N, C]. A model that embeds 1000·t, as the released
# one does, multiplies by itself.
Velocity = Callable[[Tensor, Tensor, C], Tensor]

# (purpose, index of the sample in the global batch) -> a generator for that draw alone. The caller
# binds the run seed and the global step: `partial(randomness.generator, seed, step)`.
# So nothing here can come to depend on the rank, or on which samples share a micro-batch.
Draw = Callable[[str, int], torch.Generator]


def on_grid(
    model: Callable[[SparseTensor, Tensor, C], SparseTensor], grid: VoxelGrid
) -> Velocity[C]:
    """A model of sparse tensors as a velocity of packed features [N, C] on `grid`."""
    return lambda x, t, condition: model(SparseTensor(x, grid), t, condition).feats


def draw_noise(draw: Draw, indices: Sequence[int], lengths: Sequence[int], channels: int) -> Tensor:
    """ε: standard normal noise [sum(lengths), channels], float32, on the CPU for every device.

    Args:
        indices: each sample's index in the global batch.
        lengths: each sample's number of tokens.
    """
    parts = [
        torch.randn(length, channels, generator=draw("flow_noise", index))
        for index, length in zip(indices, lengths, strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, channels)


def interpolate(x0: Tensor, noise: Tensor, t: Tensor, lengths: Sequence[int]) -> Tensor:
    """x_t of samples at their own times.

    Args:
        x0, noise: [N, C].
        t: [B], in [0, 1].
        lengths: each sample's number of tokens.

    Returns:
        [N, C], float32 (float64 for float64 data).
    """
    assert x0.shape == noise.shape and x0.shape[0] == sum(lengths)
    x0, noise = wide(x0), wide(noise)
    rows = per_token(t.to(x0.dtype), lengths)
    return (1 - rows) * x0 + rows * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """v = ε − x0, what the model has to say anywhere on the path. [N, C], float32 (or float64)."""
    assert x0.shape == noise.shape
    return wide(noise) - wide(x0)


def data_estimate(x_t: Tensor, velocity: Tensor, t: Tensor, lengths: Sequence[int]) -> Tensor:
    """The data that x_t [N, C] would come from if its path were straight: x_t − t·v. [N, C]."""
    assert x_t.shape == velocity.shape
    x_t = wide(x_t)
    return x_t - per_token(t.to(x_t.dtype), lengths) * wide(velocity)


def per_token(t: Tensor, lengths: Sequence[int]) -> Tensor:
    """One value per sample [B] -> one row per token [N, 1]; no size is read from the device."""
    assert t.shape == (len(lengths),)
    counts = torch.tensor(lengths, dtype=torch.int64).to(t.device, non_blocking=True)
    return t.repeat_interleave(counts, output_size=sum(lengths))[:, None]


def wide(x: Tensor) -> Tensor:
    """float32, or float64 where x is that already."""
    return x if x.dtype == torch.float64 else x.float()

"""The flow-matching loss, and how it is spread over time.

    L = mean over a sample's tokens and channels of (v̂ − (ε − x0))²

(Lipman et al. 2023, eq. 23, on the straight path), in fp32 whatever the model computes in. The
trainer averages over the samples of the global batch. One number hides where a flow fails: near
t = 1 the loss is the variance of the data, near t = 0 it is what the model cannot denoise. So it is
also summed by time bin, as numbers that add up over micro-batches, ranks and steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from threed_gen.flow.path import wide

BINS = 10


def flow_loss(predicted: Tensor, target: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean squared error of the velocity of each sample.

    Args:
        predicted, target: [N, C], in any precision.
        lengths: each sample's number of tokens.

    Returns:
        [B], float32 (float64 for float64 input); 0 with zero gradient for an empty sample.
    """
    assert predicted.shape == target.shape and predicted.shape[0] == sum(lengths)
    squared = (wide(predicted) - wide(target)).square()
    # A loop over contiguous slices, not one sum by sample number: a sample's loss is then the same
    # bit for bit wherever in the batch it lies, and needs no atomics and no size from the device.
    rows = [part.sum() / max(part.numel(), 1) for part in squared.split(list(lengths))]
    return torch.stack(rows) if rows else squared.new_zeros(0)


class TimeBin(NamedTuple):
    """Mean loss of the samples whose time fell into a bin, and how many these were."""

    mean: float
    samples: float


def by_time_bin(loss: Tensor, t: Tensor, bins: int = BINS) -> Tensor:
    """Each sample's loss and a 1, put into its time's bin.

    Args:
        loss: [B], of each sample.
        t: [B] in [0, 1]; bin k holds k/bins ≤ t < (k + 1)/bins, the last one also t = 1.

    Returns:
        [B, 2, bins] (loss, count), detached; zero outside the sample's bin. Sum over all samples
        of a step, of all ranks (leaving stand-ins out), and give it to `time_bin_means`.
    """
    assert loss.shape == t.shape and loss.ndim == 1
    loss = wide(loss.detach())
    number = (t * bins).long().clamp(0, bins - 1).to(loss.device)
    inside = number[:, None] == torch.arange(bins, device=loss.device)  # [B, bins]
    # where, not a product: 0·inf would carry one bin's overflow into all others
    losses = torch.where(inside, loss[:, None], 0.0)
    return torch.stack([losses, inside.to(loss.dtype)], dim=1)


def time_bin_means(totals: Tensor) -> dict[str, TimeBin]:
    """Summed `by_time_bin` rows [2, bins] as {"0.30-0.40": (mean, count)}, without empty bins."""
    losses, counts = totals.tolist()
    bins = len(counts)
    return {
        f"{k / bins:.2f}-{(k + 1) / bins:.2f}": TimeBin(losses[k] / counts[k], counts[k])
        for k in range(bins)
        if counts[k] > 0
    }

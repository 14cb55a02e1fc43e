"""Random draws that never depend on the rank.

Every draw is keyed by (run seed, global step, purpose, index of the sample in the global batch).
A resumed run, or one on another number of ranks, therefore draws exactly the same numbers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, step: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one purpose of one sample at one step."""
    key = f"{seed}/{step}/{purpose}/{index}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number & 0x7FFF_FFFF_FFFF_FFFF)


def sample_noise(
    seed: int, step: int, purpose: str, indices: list[int], lengths: list[int], channels: int
) -> Tensor:
    """Standard normal noise for packed samples, float32 on the CPU.

    Args:
        indices: each sample's index in the global batch.
        lengths: each sample's number of tokens.

    Returns:
        [sum(lengths), channels]; drawn on the CPU so that every device sees the same numbers.
    """
    parts = [
        torch.randn(length, channels, generator=generator(seed, step, purpose, index))
        for index, length in zip(indices, lengths, strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, channels)

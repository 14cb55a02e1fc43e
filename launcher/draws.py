"""Random numbers that are the same on every rank: a function of (seed, key), nothing drawn before.

All randomness is Philox, keyed by (seed, purpose, epoch, …); only its raw 64-bit output is used,
which NumPy guarantees to stay the same between versions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def draw(seed: int, *key: int | str, choices: int) -> int:
    """A uniform draw from range(choices) that depends on (seed, key) alone, the same on all ranks.

    For example the resolution of a step: `draw(seed, "resolution", step, choices=len(levels))`.
    """
    if choices < 1:
        raise ValueError(f"choices must be at least 1, got {choices}")
    generator = _philox(seed, *key)
    limit = 2**64 - 2**64 % choices  # values above would favour the first choices
    while True:
        value = int(generator.random_raw())
        if value < limit:
            return value % choices


def raw_draws(count: int, seed: int, *key: int | str) -> NDArray[np.uint64]:
    """`count` raw 64-bit numbers: keys to sort by."""
    values: NDArray[np.uint64] = _philox(seed, *key).random_raw(count)
    return values


def _philox(seed: int, *key: int | str) -> np.random.Philox:
    parts = [f"{type(part).__name__}:{part}" for part in (int(seed), *key)]
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))

"""Which samples are held out: decided by a hash of the id, so that it never changes.

The answer depends on the id and the share alone: not on the order, not on the other samples, not
on when a sample joined. Raising the share only moves samples from `train` to `held_out`.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "held_out"]


def split_of(id: str, share: float) -> Split:  # noqa: A002  the word that the index uses
    """`held_out` for about `share` (0 to 1) of all ids, `train` for the others."""
    if not 0 <= share <= 1:
        raise ValueError(f"the held-out share must lie between 0 and 1, got {share}")
    text = f"split {id}".encode("utf-8", "surrogateescape")
    number = int.from_bytes(hashlib.sha256(text).digest()[:6], "big")  # 48 bits: exact as a float
    return "held_out" if number < share * 2**48 else "train"

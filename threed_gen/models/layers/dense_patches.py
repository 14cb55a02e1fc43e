"""Cutting a dense grid into cubic patches, one token each, and putting it together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def patchify(x: Tensor, patch: int) -> Tensor:
    """Tokens [B, N, C·p³] of [B, C, X, Y, Z]; patches in the order (x, y, z), z fastest.

    Within a token: the channel is slowest, then the place inside the patch along x, y and z (as in
    TRELLIS; the released Direct3D-S2 has p = 1).
    """
    batch, channels, *sides = x.shape
    assert x.ndim == 5 and all(side % patch == 0 for side in sides), (x.shape, patch)
    across = [part for side in sides for part in (side // patch, patch)]
    paired = x.reshape(batch, channels, *across)  # [B, C, X/p, p, Y/p, p, Z/p, p]
    ordered = paired.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return ordered.reshape(batch, -1, channels * patch**3)


def unpatchify(tokens: Tensor, sides: Sequence[int], patch: int) -> Tensor:
    """The inverse of `patchify`: [B, C, X, Y, Z] for sides (X, Y, Z)."""
    batch, _, width = tokens.shape
    channels, (x, y, z) = width // patch**3, [side // patch for side in sides]
    split = tokens.reshape(batch, x, y, z, channels, patch, patch, patch)
    ordered = split.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return ordered.reshape(batch, channels, *sides)


def patch_coords(sides: Sequence[int], patch: int) -> Tensor:
    """Coordinates of every patch, in the order of the tokens. int64 [N, 3]."""
    axes = [torch.arange(side // patch) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)

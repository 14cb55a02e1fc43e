"""Which tokens of a picture enter cross-attention, and where in the picture they are.

An encoder makes of each picture `prefix` tokens of the whole (cls, registers) and then one of each
patch, row by row. Sparse conditioning (Direct3D-S2 1.0) keeps the first ones and of the patches
those that show the shape: a pixel of the mask is above zero. The choice is made on the host, where
the picture is prepared, so that lengths are known and nothing is read back from a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one picture: size and patch in pixels, `prefix` tokens before the patches."""

    size: int
    patch: int
    prefix: int

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def count(self) -> int:
        """Tokens of one picture."""
        return self.prefix + self.side**2

    def all_tokens(self) -> Tensor:
        """int64 [count]."""
        return torch.arange(self.count)

    def foreground_tokens(self, mask: Tensor) -> Tensor:
        """The first tokens and those of patches where mask [S, S] is above zero. int64 [K]."""
        assert mask.shape == (self.size, self.size)
        shown = F.max_pool2d(mask[None], self.patch)[0] > 0  # [side, side]
        patches = shown.flatten().nonzero()[:, 0]
        return torch.cat([torch.arange(self.prefix), patches + self.prefix])

    def positions(self, tokens: Tensor) -> Tensor:
        """(column, row, 0) of a patch, (0, 0, 1) of a token of the whole. int32 [K, 3]."""
        patch = tokens - self.prefix
        whole = patch < 0
        column = (patch % self.side).masked_fill(whole, 0)
        row = patch.div(self.side, rounding_mode="floor").masked_fill(whole, 0)
        return torch.stack([column, row, whole.long()], dim=1).int()

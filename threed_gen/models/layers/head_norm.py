"""RMS norm of each attention head, for queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadRMSNorm(nn.Module):
    """x / rms(x) · gamma over the last axis, with one gain [H, D] per head (TRELLIS, Direct3D-S2).

    gamma is named and starts (at one) as in the released checkpoints. Statistics in fp32 or wider,
    output in the input's dtype. A row of zeros stays zero.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, width))

    def forward(self, x_NHD: Tensor) -> Tensor:
        assert x_NHD.shape[1:] == self.gamma.shape
        wide = x_NHD if x_NHD.dtype == torch.float64 else x_NHD.float()
        unit = F.normalize(wide, dim=-1) * self.gamma.shape[1] ** 0.5
        return (unit * self.gamma).to(x_NHD.dtype)

    def extra_repr(self) -> str:
        return f"{self.gamma.shape[0]} heads of {self.gamma.shape[1]}"

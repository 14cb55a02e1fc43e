"""The definition of the submanifold convolution: gather, multiply, scatter, one offset at a time.

Plain PyTorch in any dtype, differentiated by autograd. Slow, and the yardstick of every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sparse_conv.plan import KERNEL_VOLUME


def submanifold_conv_reference(
    x: Tensor, kernel: Tensor, bias: Tensor | None, rows: Tensor
) -> Tensor:
    """out(p) = bias + sum_k x(p + offset_k) @ kernel[k] over the neighbours that exist.

    x: [N, C]; kernel: [27, C, D]; bias: [D] or None; rows: int [N, 27] as from `neighbour_rows`.
    Returns [N, D]. Half-precision products are accumulated in fp32.
    """
    total, channels = x.shape
    assert kernel.shape[:2] == (KERNEL_VOLUME, channels) and rows.shape == (total, KERNEL_VOLUME)
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    out = x.new_zeros(total, kernel.shape[2], dtype=wide)
    for k in range(KERNEL_VOLUME):
        receiver = torch.nonzero(rows[:, k] != total)[:, 0]
        product = x[rows[receiver, k].long()] @ kernel[k].to(x.dtype)
        out = out.index_add(0, receiver, product.to(wide))
    if bias is not None:
        out = out + bias.to(wide)
    return out.to(x.dtype)

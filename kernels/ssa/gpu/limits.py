"""What the Triton kernels take, said before one of them starts."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

WIDTHS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_supported(q_NHD: Tensor) -> None:
    """Raise ValueError for queries that the kernels cannot take, naming a way that works."""
    width, kind, device = q_NHD.shape[2], q_NHD.dtype, q_NHD.device.type
    if width not in WIDTHS:
        raise ValueError(f"q_NHD: got head dimension {width}, the Triton kernels take {WIDTHS}")
    if kind not in DTYPES:
        raise ValueError(
            f"q_NHD: got {kind}, the Triton kernels take float16, bfloat16 and float32; "
            "backend='reference' takes any"
        )
    interpreted = triton.knobs.runtime.interpret
    if device == "cpu" and not interpreted:
        raise ValueError(
            "backend: got 'triton' for tensors on the CPU; use 'cpu', or set TRITON_INTERPRET=1 "
            "before the program starts to run the kernels slowly in Triton's interpreter"
        )
    if interpreted and device != "meta" and kind == torch.bfloat16:
        raise ValueError(
            "q_NHD: got torch.bfloat16, which Triton's interpreter computes wrongly; use float32"
        )

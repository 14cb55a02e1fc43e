"""The spconv package as a backend of the submanifold convolution.

Always `SubMConv3d`: its plain `SparseConv3d` with padding would grow the voxel set. On a CPU only
`ConvAlgo.Native` works, in fp32 and fp64; no algorithm knows bf16. Index pairs are cached with the
grid, as spconv's own `indice_dict`.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from threed_gen.errors import UserError
from threed_gen.sparse.voxel_grid import VoxelGrid


@cache
def _spconv() -> Any:
    try:
        with warnings.catch_warnings():  # it decorates with names that torch has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            import spconv.pytorch as spconv  # heavy, optional: imported when first used
    except ImportError as err:
        raise UserError(
            "convolution backend 'spconv': the package is not installed; "
            "choose backend 'torch' or install the extra for your CUDA, e.g. .[cu120]"
        ) from err
    return spconv


@cache
def _layer(channels: int, width: int, device: torch.device, dtype: torch.dtype) -> Any:
    """A SubMConv3d whose weight is replaced at each call."""
    spconv = _spconv()
    algo = spconv.ConvAlgo.Native if device.type == "cpu" else None
    layer = spconv.SubMConv3d(channels, width, 3, bias=False, indice_key="grid", algo=algo)
    return layer.to(device, dtype)


def spconv_weight(kernel: Tensor) -> Tensor:
    """kernel [27, in, out] in spconv's layout [out, 3, 3, 3, in]: w[o,a,b,c,i] = k[a+3b+9c,i,o]."""
    _, channels, width = kernel.shape
    return kernel.view(3, 3, 3, channels, width).permute(4, 2, 1, 0, 3).contiguous()


def spconv_conv(x: Tensor, kernel: Tensor, bias: Tensor | None, grid: VoxelGrid) -> Tensor:
    """Submanifold convolution of x [N, C] on `grid` by spconv. [N, D]."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    known = {torch.float32, torch.float64 if x.device.type == "cpu" else torch.float16}
    if dtype not in known:
        raise UserError(
            f"convolution backend 'spconv' cannot compute in {str(dtype).removeprefix('torch.')} "
            f"on {x.device.type}; choose backend 'torch' or another precision"
        )
    if not len(x):  # spconv refuses empty inputs; keep the graph connected
        return x.to(dtype) @ kernel[0].to(dtype) + (0 if bias is None else bias.to(dtype))
    layer = _layer(kernel.shape[1], kernel.shape[2], x.device, dtype)
    pairs: dict[str, Any] = grid.cached("spconv", dict)
    voxels = _spconv().SparseConvTensor(
        x.to(dtype), grid.coords, [grid.resolution] * 3, max(grid.batch_size, 1), indice_dict=pairs
    )
    with torch.autocast(x.device.type, enabled=False):
        weight = {"weight": spconv_weight(kernel).to(dtype)}
        out: Tensor = torch.func.functional_call(layer, weight, (voxels,)).features
    return out if bias is None else out + bias.to(dtype)

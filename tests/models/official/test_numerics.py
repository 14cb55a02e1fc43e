"""What released weights compute once they are in our modules, against plain loops and dense torch.

The released layout is written out again here: kernel entry a + 3b + 9c of a sparse convolution is
`weight[:, :, a, b, c]` of a dense one, and a 1³ kernel is a transposed linear weight.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.ssa import build_plan
from tests.models.official import released
from threed_gen.models.layers.cell_compression import Compression, make_compression
from threed_gen.models.layers.resolution import DownBlock, Pointwise
from threed_gen.sparse.conv import Backend, SubmanifoldConv3d
from threed_gen.sparse.pool import Pooling, mean_pool
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

SIDE = 12


def some_voxels(seed: int, channels: int, per_sample: int = 90) -> SparseTensor:
    """Two samples with voxels anywhere, many at the walls of the grid."""
    draw = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(SIDE**3, generator=draw)[:per_sample] for _ in range(2)]
    raster = torch.cat([sample * SIDE**3 + cells for sample, cells in enumerate(chosen)])
    coords = torch.stack([raster // SIDE**3, raster // SIDE**2 % SIDE, raster // SIDE % SIDE,
                          raster % SIDE], dim=1).int()  # fmt: skip
    grid = VoxelGrid.from_coords(coords, SIDE, 2)[0]
    feats = torch.randn(2 * per_sample, channels, generator=draw, dtype=torch.float64)
    return SparseTensor(feats, grid)


def dense_kernel(kernel: Tensor) -> Tensor:
    """[27, in, out] of a release -> [out, in, 3, 3, 3] of a dense convolution."""
    weight = kernel.new_empty(kernel.shape[2], kernel.shape[1], 3, 3, 3)
    for a, b, c in product(range(3), repeat=3):
        weight[:, :, a, b, c] = kernel[a + 3 * b + 9 * c].t()
    return weight


def as_dense(x: SparseTensor) -> Tensor:
    dense = x.feats.new_zeros(2, SIDE, SIDE, SIDE, x.feats.shape[1])
    dense[tuple(x.grid.coords.long().t())] = x.feats
    return dense.permute(0, 4, 1, 2, 3)


def at_voxels(dense: Tensor, grid: VoxelGrid) -> Tensor:
    return dense.permute(0, 2, 3, 4, 1)[tuple(grid.coords.long().t())]


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_converted_convolution_equals_the_dense_definition(backend: Backend) -> None:
    state = released.checkpoint(released.sparse_conv("layer", 3, 5), 0)
    conv = SubmanifoldConv3d(3, 5, backend=backend)
    conv.load_state_dict({name.removeprefix("layer.conv."): t for name, t in state.items()})
    x = some_voxels(1, 3)
    out = conv.double()(x).feats
    kernel, bias = (state[f"layer.conv.{name}"].double() for name in ("kernel", "bias"))
    dense = F.conv3d(as_dense(x), dense_kernel(kernel), bias, padding=1)
    assert torch.allclose(out, at_voxels(dense, x.grid), rtol=0, atol=1e-12)
    # The test can fail: with x and z exchanged it does.
    turned = F.conv3d(as_dense(x), dense_kernel(kernel).transpose(2, 4), bias, padding=1)
    assert not torch.allclose(out, at_voxels(turned, x.grid), atol=1e-3)


def test_a_converted_point_convolution_is_a_linear_layer() -> None:
    state = released.checkpoint(released.point_conv("layer", 3, 5), 0)
    layer = Pointwise(3, 5)
    layer.load_state_dict({name.removeprefix("layer."): t for name, t in state.items()})
    x = some_voxels(1, 3)
    kernel, bias = (state[f"layer.conv.{name}"].double() for name in ("kernel", "bias"))
    want = F.linear(x.feats, kernel.t(), bias)
    assert torch.allclose(layer.double()(x.feats), want, rtol=0, atol=1e-13)


Cells = dict[tuple[int, ...], Tensor]


def group_norm(cells: Cells, weight: Tensor, bias: Tensor, groups: int) -> Cells:
    """Over all voxels of a sample and the channels of a group."""
    out: Cells = {}
    for sample in (0, 1):
        keys = [key for key in cells if key[0] == sample]
        rows = torch.stack([cells[key] for key in keys])  # [n, C]
        split = rows.view(len(keys), groups, -1)
        mean = split.mean((0, 2), keepdim=True)
        variance = (split - mean).square().mean((0, 2), keepdim=True)
        rows = ((split - mean) / (variance + 1e-5).sqrt()).view(rows.shape) * weight + bias
        out |= dict(zip(keys, rows, strict=True))
    return out


def pool(cells: Cells, more: int, side: int = 2) -> Cells:
    """Sum of a cell's members over their number, and `more`."""
    children: dict[tuple[int, ...], list[Tensor]] = {}
    for (sample, *place), row in cells.items():
        children.setdefault((sample, *(v // side for v in place)), []).append(row)
    return {key: sum(rows, torch.zeros(())) / (len(rows) + more) for key, rows in children.items()}


def convolve(cells: Cells, kernel: Tensor, bias: Tensor) -> Cells:
    """out(p) = bias + sum over k of in(p + offset k) @ kernel[k]."""
    out = {}
    for key in cells:
        total = bias.clone()
        for k in range(27):
            offset = (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)
            near = (key[0], *(a + b for a, b in zip(key[1:], offset, strict=True)))
            if near in cells:
                total = total + cells[near] @ kernel[k]
        out[key] = total
    return out


def first_block(w: dict[str, Tensor], cells: Cells, groups: tuple[int, int], more: int) -> Cells:
    """`encoder.downsample.0`, layer after layer."""

    def silu(which: Cells) -> Cells:
        return {key: row * torch.sigmoid(row) for key, row in which.items()}

    def normed(name: str, which: Cells, count: int) -> Cells:
        return silu(group_norm(which, w[f"{name}.weight"], w[f"{name}.bias"], count))

    def conv(name: str, which: Cells) -> Cells:
        return convolve(which, w[f"{name}.conv.kernel"], w[f"{name}.conv.bias"])

    h = conv("out_layers.0", pool(normed("act_layers.0", cells, groups[0]), more))
    h = conv("out_layers.3", normed("out_layers.1", h, groups[1]))
    skip = pool(cells, more)
    kernel, bias = w["skip_connection.conv.kernel"], w["skip_connection.conv.bias"]
    return {key: h[key] + skip[key] @ kernel + bias for key in h}


@pytest.mark.parametrize(("pooling", "more"), [("released", 1), ("mean", 0)])
def test_the_first_block_of_the_encoder_equals_plain_loops(pooling: Pooling, more: int) -> None:
    name = "encoder.downsample.0."
    state = {
        key.removeprefix(name): tensor
        for key, tensor in released.checkpoint(released.sparse_vae(64), 0).items()
        if key.startswith(name)
    }
    block = DownBlock(4, 8, 2, "torch", pooling)
    block.load_state_dict(state)
    x = some_voxels(2, 4, per_sample=150)
    out = block.double()(x)
    cells = {tuple(key): row for key, row in zip(x.grid.coords.tolist(), x.feats, strict=True)}
    wide = {key: tensor.double() for key, tensor in state.items()}
    want = first_block(wide, cells, (2, 2), more)
    got = {tuple(key): row for key, row in zip(out.grid.coords.tolist(), out.feats, strict=True)}
    assert set(got) == set(want)
    for key in want:
        assert torch.allclose(got[key], want[key], rtol=0, atol=1e-10)


def test_released_pooling_is_what_the_official_line_of_torch_says() -> None:
    x = some_voxels(3, 4, per_sample=200)
    table = x.grid.pooled()
    zeros = x.feats.new_zeros(table.coarse.num_voxels, 4)
    parent = table.parent[:, None].expand(-1, 4)
    want = torch.scatter_reduce(zeros, 0, parent, x.feats, "mean")  # counts the zero as well
    assert torch.allclose(mean_pool(x, "released").feats, want, rtol=0, atol=1e-13)
    assert not torch.allclose(mean_pool(x).feats, want, atol=1e-3)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("pooling", "more"), [("released", 1), ("mean", 0)])
def test_compressed_keys_equal_plain_loops(version: str, pooling: Pooling, more: int) -> None:
    """Both released compressions of cells, here of 4³ tokens."""
    at = "blocks.0.self_attn.compression_key."
    shapes = released.sparse_dit(version, width=64, context=64, latents=2, blocks=1, shared=8)
    state = {
        key.removeprefix(at): tensor.double()
        for key, tensor in released.checkpoint(shapes, 0).items()
        if key.startswith(at)
    }
    kind: Compression = "linear" if version == "v1" else "residual"
    layer = make_compression(kind, 8, "torch", pooling).double()
    layer.load_state_dict(state)
    x = some_voxels(4, 8, per_sample=200)
    plan = build_plan(x.grid.coords, cell=4, window=8, batch_size=2)
    got = layer(x, plan)
    cells = {tuple(key): row for key, row in zip(x.grid.coords.tolist(), x.feats, strict=True)}

    def silu(which: Cells) -> Cells:
        return {key: row * torch.sigmoid(row) for key, row in which.items()}

    def normed(name: str, which: Cells) -> Cells:
        return silu(group_norm(which, state[f"{name}.weight"], state[f"{name}.bias"], 8))

    def conv(name: str, which: Cells) -> Cells:
        return convolve(which, state[f"{name}.conv.kernel"], state[f"{name}.conv.bias"])

    if version == "v1":
        kernel, bias = state["act_layers.0.conv.kernel"], state["act_layers.0.conv.bias"]
        want = pool(silu({key: row @ kernel + bias for key, row in cells.items()}), more, 4)
    else:
        h = conv("out_layers.0", pool(normed("act_layers.0", cells), more, 4))
        h = conv("out_layers.3", normed("out_layers.1", h))
        skip = pool(cells, more, 4)
        want = {key: h[key] + skip[key] for key in h}
    first = x.grid.coords[plan.cells.starts[:-1].long()].tolist()
    for (sample, *place), row in zip(first, got, strict=True):
        key = (sample, *(v // 4 for v in place))
        assert torch.allclose(row, want[key], rtol=0, atol=1e-10), key
    assert len(want) == len(got)

"""The whole SS-VAE against the paper's description, written again with dense PyTorch operations.

On a grid in which every voxel exists the sparse model is an ordinary 3-D network: conv3d with zero
padding, group_norm, avg_pool3d, nearest upsampling, masked attention. This restates the order of
layers, norms, shifts and position embedding independently of the code under test.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.shapes import tiny_model
from tests.sparse.grids import dense_weight, features, from_dense, full_grid, to_dense
from threed_gen.sparse.sparse_tensor import SparseTensor

WINDOW, HEADS, RESOLUTION = 2, 2, 32  # 4³ latent cells: windows of 2³, shifted by 1
Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].t() + w[f"{name}.bias"]


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


def conv(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.conv3d(x, dense_weight(w[f"{name}.conv.kernel"]), w[f"{name}.conv.bias"], padding=1)


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def down(w: Weights, name: str, x: Tensor) -> Tensor:
    h = F.avg_pool3d(F.silu(norm(w, f"{name}.act_layers.0", x)), 2)
    h = F.silu(norm(w, f"{name}.out_layers.1", conv(w, f"{name}.out_layers.0", h)))
    h = conv(w, f"{name}.out_layers.3", h)
    skip = channels_last(F.avg_pool3d(x, 2)) @ w[f"{name}.skip_connection.conv.kernel"]
    return h + channels_first(skip + w[f"{name}.skip_connection.conv.bias"])


def up(w: Weights, name: str, x: Tensor) -> Tensor:
    h = F.interpolate(F.silu(conv(w, f"{name}.act_layers.0", x)), scale_factor=2, mode="nearest")
    return F.silu(conv(w, f"{name}.out_layers.0", h))


def positions(cells: Tensor, channels: int) -> Tensor:
    count, factor = channels // 6, 512 / RESOLUTION
    columns = []
    for axis in range(3):
        for wave in (math.sin, math.cos):
            for j in range(count):
                values = [wave(v * factor * 10000 ** (-j / count)) for v in cells[:, axis].tolist()]
                columns.append(torch.tensor(values, dtype=torch.float64))
    columns += [torch.zeros(len(cells), dtype=torch.float64)] * (channels - 6 * count)
    return torch.stack(columns, dim=1)


def transformer(w: Weights, name: str, x: Tensor, samples: Tensor, cells: Tensor) -> Tensor:
    x = x + positions(cells, x.shape[1])
    for i in range(2):
        block, shift = f"{name}.blocks.{i}", (0, WINDOW // 2)[i]
        window = torch.cat([samples[:, None], (cells + shift) // WINDOW], dim=1)
        apart = (window[:, None] != window[None]).any(-1)
        h = F.layer_norm(x, x.shape[1:], eps=1e-6)
        q, k, v = linear(w, f"{block}.attn.to_qkv", h).chunk(3, dim=1)
        heads = []
        for q_h, k_h, v_h in zip(*(t.chunk(HEADS, dim=1) for t in (q, k, v)), strict=True):
            score = (q_h @ k_h.t() / q_h.shape[1] ** 0.5).masked_fill(apart, -torch.inf)
            heads.append(score.softmax(-1) @ v_h)
        x = x + linear(w, f"{block}.attn.to_out", torch.cat(heads, dim=1))
        h = linear(w, f"{block}.mlp.mlp.0", F.layer_norm(x, x.shape[1:], eps=1e-6))
        x = x + linear(w, f"{block}.mlp.mlp.2", F.gelu(h, approximate="tanh"))
    return x


def test_encoder_and_decoder_equal_their_dense_description() -> None:
    model = tiny_model(window=WINDOW)
    torch.manual_seed(1)
    with torch.no_grad():  # no weight may hide at its initial zero or one
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    w = {name: value.detach() for name, value in model.state_dict().items()}
    grid = full_grid(RESOLUTION)
    s = features(grid, 1)
    latent_grid = grid.pooled().coarse.pooled().coarse.pooled().coarse
    samples, cells = latent_grid.coords.long()[:, 0], latent_grid.coords.long()[:, 1:]

    h = channels_first(linear(w, "encoder.input_layer1", channels_last(to_dense(s, grid))))
    for i in range(3):
        h = down(w, f"encoder.downsample.{i}", h)
    tokens = linear(w, "encoder.input_layer", from_dense(h, latent_grid))
    tokens = transformer(w, "encoder", tokens, samples, cells)
    moments = linear(w, "encoder.out_layer", F.layer_norm(tokens, tokens.shape[1:], eps=1e-5))
    mean, logvar = moments.chunk(2, dim=1)

    tokens = linear(w, "decoder.input_layer", mean)
    tokens = transformer(w, "decoder", tokens, samples, cells)
    h = to_dense(tokens, latent_grid)
    for i in range(3):
        h = up(w, f"decoder.upsample.{i}", h)
    dense = channels_first(torch.tanh(linear(w, "decoder.out_layer", channels_last(h))))

    with torch.no_grad():
        posterior = model.encode(SparseTensor(s, grid))
        out = model.decode(posterior.mean)
    close = {"rtol": 1e-6, "atol": 1e-6}  # positions are float32 in the model
    torch.testing.assert_close(posterior.mean.feats, mean, **close)
    torch.testing.assert_close(posterior.logvar.feats, logvar, **close)
    torch.testing.assert_close(out.feats, from_dense(dense, grid), **close)

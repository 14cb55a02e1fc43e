"""The built-in patch encoder: what goes where, and that all of it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from threed_gen.models.conditioning.config import PatchesConfig
from threed_gen.models.conditioning.patch_encoder import PatchEncoder
from threed_gen.models.layers.position import position_embedding


def encoder(layers: int, size: int = 32, patch: int = 8) -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(PatchesConfig(patch=patch, channels=24, heads=2, layers=layers), size)


def pictures(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 4, size, size, generator=torch.Generator().manual_seed(1))


def test_without_layers_every_token_by_hand() -> None:
    model, shown = encoder(0).double(), pictures().double()
    tokens = model(shown)
    assert tokens.shape == (2, 17, 24)
    weight, bias = model.input_layer.weight, model.input_layer.bias
    for row in range(4):
        for column in range(4):
            part = shown[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] * 2 - 1
            place = position_embedding(torch.tensor([[column, row, 0]]), 24, 1.0)
            plain = part.flatten(1) @ weight.T + bias + place
            expected = F.layer_norm(plain, (24,), eps=1e-6)
            torch.testing.assert_close(tokens[:, 1 + row * 4 + column], expected)
    torch.testing.assert_close(tokens[0, 0], F.layer_norm(model.whole, (24,), eps=1e-6))


@pytest.mark.parametrize("channel", [0, 2, 3])
def test_layers_let_all_tokens_of_one_picture_see_every_pixel(channel: int) -> None:
    shown = pictures()
    other = shown.clone()
    other[1, channel, 20, 9] += 0.5
    alone = encoder(0)
    changed = (alone(shown) != alone(other)).any(2)
    assert changed.nonzero().tolist() == [[1, 1 + 2 * 4 + 1]]
    mixed = encoder(2)
    changed = (mixed(shown) != mixed(other)).any(2)
    assert changed.tolist() == [[False] * 17, [True] * 17]


def test_every_parameter_learns() -> None:
    model = encoder(2)
    loss = (model(pictures()) * torch.linspace(-1, 1, 24)).square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
    assert "places" not in model.state_dict()

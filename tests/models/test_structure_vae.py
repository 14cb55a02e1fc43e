"""Structure VAE: released sizes and names, the whole of it by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from threed_gen.models.structure_vae import DensePosterior, StructureVAE, StructureVAEConfig

SMALL: dict[str, Any] = {
    "encoder_widths": (3, 4, 5), "decoder_widths": (6, 5, 4), "latent_channels": 2,
    "encoder_blocks": 2, "encoder_middle_blocks": 1, "decoder_blocks": 1,
    "decoder_middle_blocks": 2,
}  # fmt: skip
SIDES = (8, 4, 12)


def small(**changes: Any) -> StructureVAE:
    """In float64, and no parameter is zero."""
    torch.manual_seed(0)
    model = StructureVAE(StructureVAEConfig(**(SMALL | changes))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def occupancy() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, *SIDES, generator=generator) < 0.3


def noise(seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, *(n // 4 for n in SIDES), generator=generator, dtype=torch.float64)


# --- released sizes ------------------------------------------------------------------------------


def conv(into: int, out: int, edge: int) -> int:
    return into * out * edge**3 + out


def block(width: int) -> int:
    return 2 * conv(width, width, 3) + 4 * width


def test_released_parameters() -> None:
    """Counted from the description: 193.0 M, 59.3 M of them in the encoder."""
    with torch.device("meta"):
        model = StructureVAE(StructureVAEConfig())
    encoder = conv(1, 32, 3) + 2 * block(32) + conv(32, 128, 2) + 2 * block(128)
    encoder += conv(128, 512, 2) + 4 * block(512) + 2 * 512 + conv(512, 16, 3)
    decoder = conv(8, 512, 3) + 8 * block(512) + conv(512, 8 * 128, 3) + 4 * block(128)
    decoder += conv(128, 8 * 64, 3) + 4 * block(64) + 2 * 64 + conv(64, 1, 3)
    assert (encoder, decoder) == (59_298_192, 133_738_817)
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    assert parts == {"encoder": encoder, "decoder": decoder}
    assert f"{(encoder + decoder) / 1e6:.1f}" == "193.0"


def test_released_names() -> None:
    with torch.device("meta"):
        model = StructureVAE(StructureVAEConfig())
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wanted: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        wanted[f"{name}.weight"], wanted[f"{name}.bias"] = shape, shape[:1]

    def residual(name: str, width: int) -> None:
        for number in (1, 2):
            layer(f"{name}.norm{number}", width)
            layer(f"{name}.conv{number}", width, width, 3, 3, 3)

    layer("encoder.input_layer", 32, 1, 3, 3, 3)
    for i, width in ((0, 32), (1, 32), (3, 128), (4, 128), (6, 512), (7, 512)):
        residual(f"encoder.blocks.{i}", width)
    layer("encoder.blocks.2.conv", 128, 32, 2, 2, 2)
    layer("encoder.blocks.5.conv", 512, 128, 2, 2, 2)
    layer("encoder.out_layer.0", 512)
    layer("encoder.out_layer.2", 16, 512, 3, 3, 3)
    layer("decoder.input_layer", 512, 8, 3, 3, 3)
    for i, width in [(i, (512, 128, 64)[i // 5]) for i in range(14) if i % 5 < 4]:
        residual(f"decoder.blocks.{i}", width)
    layer("decoder.blocks.4.conv", 1024, 512, 3, 3, 3)
    layer("decoder.blocks.9.conv", 512, 128, 3, 3, 3)
    layer("decoder.out_layer.0", 64)
    layer("decoder.out_layer.2", 1, 64, 3, 3, 3)
    for i in range(2):
        residual(f"encoder.middle_block.{i}", 512)
    for i in range(4):
        residual(f"decoder.middle_block.{i}", 512)
    assert found == wanted


# --- by hand -------------------------------------------------------------------------------------


class ByHand:
    """The network written out as one list of steps over named weights."""

    def __init__(self, model: StructureVAE) -> None:
        self.w = dict(model.named_parameters())

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        return F.conv3d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **how)

    def norm(self, name: str, x: Tensor) -> Tensor:
        unit = (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-5).sqrt()
        weight, bias = (self.w[f"{name}.{k}"][:, None, None, None] for k in ("weight", "bias"))
        return unit * weight + bias

    def residual(self, name: str, x: Tensor) -> Tensor:
        h = x
        for number in (1, 2):
            h = self.norm(f"{name}.norm{number}", h)
            h = self.conv(f"{name}.conv{number}", h * h.sigmoid(), padding=1)
        return x + h

    def out(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.0", x)
        return self.conv(f"{name}.2", h * h.sigmoid(), padding=1)

    def encode(self, x: Tensor) -> Tensor:
        h = self.conv("encoder.input_layer", x, padding=1)
        for i, kind in enumerate("rrdrrdrr"):
            name = f"encoder.blocks.{i}"
            h = self.residual(name, h) if kind == "r" else self.conv(f"{name}.conv", h, stride=2)
        return self.out("encoder.out_layer", self.residual("encoder.middle_block.0", h))

    def decode(self, z: Tensor) -> Tensor:
        h = self.conv("decoder.input_layer", z, padding=1)
        for i in range(2):
            h = self.residual(f"decoder.middle_block.{i}", h)
        for i, kind in enumerate("rurur"):
            name = f"decoder.blocks.{i}"
            h = self.residual(name, h) if kind == "r" else self.doubled(name, h)
        return self.out("decoder.out_layer", h)

    def doubled(self, name: str, x: Tensor) -> Tensor:
        wide = self.conv(f"{name}.conv", x, padding=1)
        out = wide.new_zeros(len(x), wide.shape[1] // 8, *(2 * n for n in x.shape[2:]))
        for child in range(8):
            out[:, :, child // 4 :: 2, child // 2 % 2 :: 2, child % 2 :: 2] = wide[:, child::8]
        return out


def test_equals_the_network_by_hand_with_all_gradients() -> None:
    model = small()
    logits, posterior = model(occupancy(), noise())
    hand = ByHand(model)
    moments = hand.encode(2 * occupancy().double() - 1)
    torch.testing.assert_close(posterior.mean, moments[:, :2])
    torch.testing.assert_close(posterior.logvar, moments[:, 2:])
    wanted = hand.decode(moments[:, :2] + (0.5 * moments[:, 2:]).exp() * noise())
    torch.testing.assert_close(logits, wanted)
    assert logits.shape == (2, 1, *SIDES)
    weight = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)
    parameters = [*model.parameters()]
    got = torch.autograd.grad((logits * weight).sum(), parameters)
    truth = torch.autograd.grad((wanted * weight).sum(), parameters)
    for a, b in zip(got, truth, strict=True):
        assert bool(a.any()), "a parameter without a gradient"
        torch.testing.assert_close(a, b)


def test_cubic_and_not_cubic_agree_away_from_the_border() -> None:
    """A grid cut shorter: the same logits far from the cut (nothing knows the grid's size)."""
    model = small(encoder_blocks=0, encoder_middle_blocks=0, decoder_blocks=0,
                  decoder_middle_blocks=0)  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    whole = torch.rand(1, 1, 32, 8, 16, generator=generator) < 0.3
    with torch.no_grad():
        far = model.decode(model.encode(whole).mean)[:, :, :4]
        cut = model.decode(model.encode(whole[:, :, :28]).mean)[:, :, :4]
    torch.testing.assert_close(cut, far)


# --- the posterior -------------------------------------------------------------------------------


def test_kl_is_that_of_torch() -> None:
    posterior = DensePosterior(noise(), noise(3))
    wanted = kl_divergence(Normal(posterior.mean, posterior.std()), Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), wanted)
    torch.testing.assert_close(posterior.kl_per_sample(), wanted.mean((1, 2, 3, 4)))
    four = DensePosterior(torch.full((1, 1, 1, 1, 1), 2.0), torch.zeros(1, 1, 1, 1, 1))
    assert four.kl().item() == 2.0


def test_sampling_scales_the_noise() -> None:
    posterior = DensePosterior(noise(), noise(3))
    wanted = noise() + (0.5 * noise(3)).exp() * noise(4)
    torch.testing.assert_close(posterior.sample(noise(4)), wanted)


def test_logvar_is_clamped_and_begins_where_it_is_told() -> None:
    model = small()
    with torch.no_grad():
        model.encoder.out_layer[2].bias[2:] = torch.tensor([100.0, -100.0])
    logvar = model.encode(occupancy()).logvar
    assert (logvar[:, 0] == 20).all() and (logvar[:, 1] == -30).all()
    torch.manual_seed(0)
    plain = StructureVAE(StructureVAEConfig(**SMALL))
    torch.manual_seed(0)
    lower = StructureVAE(StructureVAEConfig(**SMALL, initial_logvar=-4.0))
    one, other = plain.encode(occupancy()), lower.encode(occupancy())
    torch.testing.assert_close(other.logvar, one.logvar - 4)
    assert torch.equal(one.mean, other.mean)


# --- precision, recomputation, complaints --------------------------------------------------------


def test_bf16_autocast_trains() -> None:
    """On 4³ latent cells: oneDNN's bf16 convolution of sides below the kernel's reads rubbish."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.rand(1, 1, 16, 16, 16, generator=generator) < 0.3
    drawn = torch.randn(1, 2, 4, 4, 4, generator=generator)
    model = small()
    exact, _ = model(cells, drawn.double())
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        logits, posterior = model(cells, drawn)
    assert logits.dtype == posterior.mean.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (logits.double() - exact).norm() < 0.15 * exact.norm()


def test_recomputation_changes_no_bit() -> None:
    found = []
    for checkpoint in (False, True):
        model = small(checkpoint=checkpoint)
        logits, _ = model(occupancy(), noise())
        found.append([logits, *torch.autograd.grad(logits.square().sum(), [*model.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_complaints() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"sides \[8, 8, 6\] must be multiples of 4"):
        model.encode(torch.zeros(1, 1, 8, 8, 6))
    with pytest.raises(ValueError, match=r"must be \[B, 1, X, Y, Z\]"):
        model.encode(torch.zeros(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match=r"z: got .* must be \[B, 2, X, Y, Z\]"):
        model.decode(torch.zeros(1, 3, 2, 2, 2))
    with pytest.raises(ValidationError, match="equally many resolutions"):
        StructureVAEConfig(encoder_widths=(8, 8))
    with pytest.raises(ValidationError, match="decoder_blocks must not be negative"):
        StructureVAEConfig(decoder_blocks=-1)
    assert StructureVAEConfig().factor == 4
    assert isinstance(small().encoder.middle_block, nn.Sequential)

"""SS-VAE: the released sizes and names, and that it computes the same however it is asked."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tests.models.shapes import batch, nothing, sphere, targets, tiny_config, tiny_model
from threed_gen.models.layers.position import position_embedding
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

SHAPES = [sphere(32, 0.35), sphere(32, 0.2, 0.6), sphere(32, 0.41, 0.5)]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def released_names() -> dict[str, tuple[int, ...]]:
    """The 116 tensors of the released SS-VAE."""
    names: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, channels: int) -> None:
        names[f"{name}.weight"] = names[f"{name}.bias"] = (channels,)

    def conv(name: str, into: int, out: int) -> None:
        names[f"{name}.conv.kernel"], names[f"{name}.conv.bias"] = (27, into, out), (out,)

    def blocks(name: str) -> None:
        for i in range(4):
            linear(f"{name}.{i}.attn.to_qkv", 1536, 512)
            linear(f"{name}.{i}.attn.to_out", 512, 512)
            linear(f"{name}.{i}.mlp.mlp.0", 2048, 512)
            linear(f"{name}.{i}.mlp.mlp.2", 512, 2048)

    linear("encoder.input_layer1", 32, 1)
    for i, (into, out) in enumerate([(32, 64), (64, 128), (128, 512)]):
        norm(f"encoder.downsample.{i}.act_layers.0", into)
        conv(f"encoder.downsample.{i}.out_layers.0", into, out)
        norm(f"encoder.downsample.{i}.out_layers.1", out)
        conv(f"encoder.downsample.{i}.out_layers.3", out, out)
        names[f"encoder.downsample.{i}.skip_connection.conv.kernel"] = (into, out)
        names[f"encoder.downsample.{i}.skip_connection.conv.bias"] = (out,)
    linear("encoder.input_layer", 512, 512)
    blocks("encoder.blocks")
    linear("encoder.out_layer", 32, 512)
    linear("decoder.input_layer", 512, 16)
    blocks("decoder.blocks")
    for i, (into, out) in enumerate([(512, 128), (128, 64), (64, 32)]):
        conv(f"decoder.upsample.{i}.act_layers.0", into, out)
        conv(f"decoder.upsample.{i}.out_layers.0", out, out)
    linear("decoder.out_layer", 1, 32)
    return names


def test_released_model_has_these_tensors_and_37_87_million_parameters() -> None:
    with torch.device("meta"):
        model = SSVAE(SSVAEConfig())
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == released_names()
    assert len(found) == 116
    assert parameters(model) == 37_874_113
    assert (parameters(model.encoder), parameters(model.decoder)) == (22_637_024, 15_237_089)


def test_released_initialisation_starts_at_zero() -> None:
    model = SSVAE(tiny_config(mean_head_init="zero", output_init="zero")).double()
    posterior = model.encode(batch(SHAPES[:1], 32))
    assert not posterior.mean.feats.any() and not posterior.logvar.feats.any()
    assert not model.decode(posterior.mean).feats.any()


def test_tiny_initialisation_has_means_and_narrow_deviations() -> None:
    model = tiny_model(initial_logvar=-4.0)
    posterior = model.encode(batch(SHAPES[:1], 32))
    assert posterior.mean.feats.std() > 0.1
    assert (posterior.logvar.feats == -4.0).all()


def test_kaiming_convolutions_let_the_signal_through() -> None:
    """Variation between decoded voxels at the start, released against kaiming initialisation."""
    wide = {"decoder_widths": (16, 16, 16, 16)}
    spread = {}
    for init in ("released", "kaiming"):
        model = tiny_model(conv_init=init, **wide)
        kernel = model.decoder.upsample[0].out_layers[0].conv.kernel
        variance = {"released": 1 / 3, "kaiming": 2.0}[init] / (27 * 16)
        assert kernel.detach().var().item() == pytest.approx(variance, rel=0.05)
        spread[init] = model.decode(model.encode(batch(SHAPES[:1], 32)).mean).feats.std()
    assert spread["kaiming"] > 20 * spread["released"]


def test_shapes_and_row_order_of_encode_and_decode() -> None:
    model = tiny_model()
    x = batch([SHAPES[0], nothing(), SHAPES[1]], 32)
    posterior = model.encode(x)
    bricks = [len(SHAPES[0][0]), 0, len(SHAPES[1][0])]
    assert posterior.mean.grid.seqlens == bricks
    assert posterior.mean.feats.shape == (sum(bricks), 3)
    out = model.decode(posterior.mean)
    assert out.feats.shape == (512 * sum(bricks), 1)
    assert out.feats.abs().max() < 1
    everything, _ = VoxelGrid.from_bricks([SHAPES[0][0], nothing()[0], SHAPES[1][0]], 32)
    assert torch.equal(out.grid.coords, everything.coords)
    assert len(targets([SHAPES[0], nothing(), SHAPES[1]])) == len(out.feats)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model = tiny_model()
    together = model.encode(batch([SHAPES[0], nothing(), *SHAPES[1:]], 32))
    decoded = model.decode(together.mean).split()
    latents = together.mean.split()
    for position, shape in ((0, SHAPES[0]), (2, SHAPES[1]), (3, SHAPES[2])):
        alone = model.encode(batch([shape], 32)).mean
        torch.testing.assert_close(latents[position], alone.feats, rtol=1e-10, atol=1e-10)
        out = model.decode(alone).feats
        torch.testing.assert_close(decoded[position], out, rtol=1e-10, atol=1e-10)
    assert len(latents[1]) == len(decoded[1]) == 0


def test_an_entirely_empty_batch_runs_both_ways() -> None:
    model = tiny_model()
    x = batch([nothing(), nothing()], 32)
    out, posterior = model(x, torch.zeros(0, 3, dtype=torch.float64))
    assert out.feats.shape == (0, 1)
    assert posterior.kl_per_sample().tolist() == [0.0, 0.0]
    out.feats.sum().backward()


def test_one_brick_with_one_voxel() -> None:
    grid, _ = VoxelGrid.from_coords(torch.tensor([[0, 9, 3, 14]]), 16, 1)
    out, _ = tiny_model()(
        SparseTensor(torch.zeros(1, 1, dtype=torch.float64), grid), torch.zeros(1, 3).double()
    )
    assert out.feats.shape == (512, 1)
    assert out.feats.isfinite().all()


def loss_of(model: SSVAE) -> torch.Tensor:
    x = batch(SHAPES[:2], 32)
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(3)).double()
    cells = sum(len(bricks) for bricks, _ in SHAPES[:2])
    out, posterior = model(x, noise[:cells])
    return (out.feats - targets(SHAPES[:2])).square().mean() + posterior.kl().mean()


def test_gradient_agrees_with_finite_differences() -> None:
    """Along a random direction in the space of all parameters."""
    model = tiny_model()
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss_of(model), parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True))
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
            values.append(float(loss_of(model)))
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
    assert all(bool(g.any()) for g in grads)


def test_gradcheck_of_the_input() -> None:
    model = tiny_model()
    grid, _ = VoxelGrid.from_coords(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [0, 9, 0, 1]]), 16, 1)
    x = torch.tensor([[0.3], [-0.2], [0.9]], dtype=torch.float64, requires_grad=True)
    noise = torch.full((2, 3), 0.1, dtype=torch.float64)
    check = torch.autograd.gradcheck
    assert check(lambda t: model(SparseTensor(t, grid), noise)[0].feats[::37], x)


def test_activation_checkpointing_changes_no_bit() -> None:
    grads = []
    for flag in (False, True):
        model = tiny_model(checkpoint=flag)
        loss = loss_of(model)
        grads.append([loss, *torch.autograd.grad(loss, [*model.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("backend", ["reference", "spconv"])
def test_other_convolution_backends_give_the_same(backend: str) -> None:
    ours, theirs = tiny_model(), tiny_model(conv_backend=backend)
    losses = [loss_of(model) for model in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    grads = [
        torch.autograd.grad(loss, [*m.parameters()])
        for loss, m in zip(losses, (ours, theirs), strict=True)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_bf16_autocast_trains() -> None:
    model = tiny_model().float()
    x = batch(SHAPES[:1], 32)
    x = x.replace(x.feats.float())
    with torch.autocast("cpu", torch.bfloat16):
        out, posterior = model(x, torch.zeros(len(SHAPES[0][0]), 3))
    assert out.feats.dtype == posterior.mean.feats.dtype == torch.float32
    out.feats.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    exact = model.double().encode(batch(SHAPES[:1], 32)).mean.feats
    assert (posterior.mean.feats.double() - exact).norm() < 5e-2 * exact.norm()


def test_weights_in_bf16_run_without_autocast() -> None:
    model = tiny_model().bfloat16()
    out = model.decode(model.encode(batch(SHAPES[:1], 32)).mean)
    assert out.feats.dtype == torch.float32
    assert out.feats.isfinite().all()


def test_prepare_leaves_nothing_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    x = batch(SHAPES[:2], 32)
    model.prepare(x.grid)
    monkeypatch.setattr(VoxelGrid, "cached", only_what_is_there)
    model.decode(model.encode(x).mean)


def only_what_is_there(self: VoxelGrid, key, build):
    assert key in self._cache or key[0] == "position embedding", f"{key} is built while training"
    return self._cache.get(key) if key in self._cache else build()


def test_position_embedding_by_hand() -> None:
    table = position_embedding(torch.tensor([[1, 2, 3]]), 14, factor=0.5)  # F = 2, 2 zeros
    angles = [v * w for v in (0.5, 1.0, 1.5) for w in (1.0, 0.01)]
    expected = []
    for axis in range(3):
        pair = torch.tensor(angles[2 * axis : 2 * axis + 2])
        expected += [*pair.sin().tolist(), *pair.cos().tolist()]
    torch.testing.assert_close(table[0], torch.tensor([*expected, 0.0, 0.0]))


def test_position_factor_defaults_to_512_over_the_resolution() -> None:
    x = batch(SHAPES[:1], 32)
    default = tiny_model().encode(x).mean.feats
    assert torch.equal(default, tiny_model(position_factor=16.0).encode(x).mean.feats)
    assert not torch.equal(default, tiny_model(position_factor=1.0).encode(x).mean.feats)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_widths": (4, 8)}, "encoder_widths needs 4"),
        ({"heads": 3}, "heads must divide"),
        ({"encoder_widths": (48, 48, 48, 16), "norm_groups": 32}, "norm_groups 32 do not divide"),
        ({"latent_channels": 0}, "must be at least 1"),
        ({"conv_backend": "cudnn"}, "conv_backend"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_config(**changes)


def test_it_learns_a_shape() -> None:
    """Sixty steps on one small sphere in float32."""
    torch.manual_seed(0)
    model = SSVAE(tiny_config(initial_logvar=-4.0, decoder_widths=(16, 16, 16, 8)))
    x = batch(SHAPES[1:2], 32)
    x, target = x.replace(x.feats.float()), targets(SHAPES[1:2]).float()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        out, posterior = model(x, torch.randn(len(SHAPES[1][0]), 3))
        loss = (out.feats - target).square().mean() + 1e-3 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]

"""Sampling latents: guidance in one pass equals two, and a sample does not know its batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.flow.fields import draws
from tests.models.test_ss_dit import COUNTS, KEYS, OLD, small
from tests.sparse.grids import random_grid
from threed_gen.flow.guidance import GuidanceConfig
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation import latents
from threed_gen.generation.latents import joined, sample_latents, twice_the_samples
from threed_gen.models.layers.cross_attention import PackedTokens, pack_tokens
from threed_gen.models.ss_dit import SSDiT

GRID = random_grid(16, COUNTS)


def told(dtype: torch.dtype = torch.float64) -> PackedTokens:
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(n, 10, generator=generator, dtype=torch.float64) for n in KEYS]
    places = [torch.randint(0, 4, (n, 3), generator=generator) for n in KEYS]
    return pack_tokens([part.to(dtype) for part in parts], places)


def config(one_pass: bool, **changes: object) -> SamplerConfig:
    guidance = GuidanceConfig(scale=3.0, one_pass=one_pass)
    return SamplerConfig.model_validate({"steps": 3, "guidance": guidance, **changes})


def sampled(model: SSDiT, one_pass: bool, dtype: torch.dtype, **changes: object) -> Tensor:
    return sample_latents(model, GRID, told(dtype), config(one_pass, **changes), draws())


@pytest.mark.parametrize(
    ("method", "old"),
    [("euler", OLD), pytest.param("heun", {}, marks=pytest.mark.long)],
    ids=["euler, as 1.0", "heun"],
)
def test_one_pass_equals_two_calls(
    monkeypatch: pytest.MonkeyPatch, method: str, old: dict[str, object]
) -> None:
    noise = latents.draw_noise
    monkeypatch.setattr(latents, "draw_noise", lambda *args: noise(*args).double())
    model = small(**old)
    two, one = (sampled(model, p, torch.float64, method=method) for p in (False, True))
    assert one.dtype == torch.float64 and one.std() > 0.1
    torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_one_pass_equals_two_calls_in_fp32() -> None:
    model = small().float()
    two, one = (sampled(model, p, torch.float32) for p in (False, True))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_tables_are_built_once_per_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    from threed_gen.models import ss_dit

    built: list[int] = []

    def counting(coords: Tensor, **options: object) -> object:
        built.append(len(coords))
        return real(coords, **options)  # type: ignore[arg-type]

    real = ss_dit.build_plan
    monkeypatch.setattr(ss_dit, "build_plan", counting)
    fresh = random_grid(16, COUNTS)
    sample_latents(small().float(), fresh, told(torch.float32), config(True, steps=4), draws())
    assert built == [2 * fresh.num_voxels]


def test_twice_the_samples_is_a_grid_of_both() -> None:
    twice = twice_the_samples(GRID)
    again, order = type(GRID).from_coords(twice.coords, 16, 2 * len(COUNTS))
    assert torch.equal(order, torch.arange(2 * GRID.num_voxels))
    assert torch.equal(again.cu_seqlens, twice.cu_seqlens) and again.seqlens == twice.seqlens
    tokens = told()
    both = joined(tokens, tokens)
    assert both.cu_seqlens.tolist() == [0, 3, 5, 5, 11, 14, 16, 16, 22]
    assert both.seqlens == tuple(KEYS * 2) and len(both.feats) == 22


def test_a_sample_is_the_same_alone() -> None:
    """Of its own draw and condition, to rounding."""
    model, tokens = small().float(), told(torch.float32)
    whole = sampled(model, False, torch.float32).split(GRID.seqlens)
    for number in (0, 3):
        coords = GRID.coords[GRID.coords[:, 0] == number].clone()
        coords[:, 0] = 0
        alone = type(GRID).from_coords(coords, 16, 1)[0]
        rows = slice(int(tokens.cu_seqlens[number]), int(tokens.cu_seqlens[number + 1]))
        assert tokens.positions is not None
        own = pack_tokens([tokens.feats[rows]], [tokens.positions[rows]])
        found = sample_latents(model, alone, own, config(False), draws(), [number])
        torch.testing.assert_close(found, whole[number], rtol=0, atol=1e-5)


def test_steps_are_told() -> None:
    seen: list[int] = []
    settings = config(False, steps=5)
    model, tokens = small().float(), told(torch.float32)
    sample_latents(model, GRID, tokens, settings, draws(), on_step=lambda: seen.append(1))
    assert len(seen) == 5

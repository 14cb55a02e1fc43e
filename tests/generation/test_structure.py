"""Cells out of noise: the space of both kinds, and a flow whose answer is known beforehand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation.structure import (
    Structure,
    StructureSpace,
    as_grid,
    as_rows,
    cells_of,
    occupancy_of,
    sample_space,
    sample_structure,
)
from threed_gen.models.layers.cross_attention import PackedTokens, pack_tokens
from threed_gen.models.structure_dit import StructureDiT, StructureDiTConfig
from threed_gen.models.structure_vae import StructureVAE, StructureVAEConfig
from threed_gen.randomness import generator

DRAW = partial(generator, 3, 0)


def euler(steps: int = 4, scale: float = 1.0, **guidance: Any) -> SamplerConfig:
    tree = {"steps": steps, "shift": 1.0, "spacing": "even",
            "guidance": {"scale": scale, **guidance}}  # fmt: skip
    return SamplerConfig.model_validate(tree)


def occupancy(count: int = 2, grid: int = 4) -> Tensor:
    return torch.rand(count, 1, *[grid] * 3, generator=torch.Generator().manual_seed(0)) < 0.4


def small_vae() -> StructureVAE:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "encoder_widths": (4, 6), "decoder_widths": (6, 4), "latent_channels": 3,
        "encoder_blocks": 1, "encoder_middle_blocks": 0, "decoder_blocks": 1,
        "decoder_middle_blocks": 0,
    }  # fmt: skip
    return StructureVAE(StructureVAEConfig(**sizes)).eval()


STATISTICS = LatentStatistics(
    10, np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.5, 3.0]), "mode", ()
)  # fmt: skip


# --- grids, rows, cells --------------------------------------------------------------------------


def test_rows_are_cells_with_z_fastest() -> None:
    x = torch.arange(2 * 3 * 8).view(2, 3, 2, 2, 2).float()
    rows = as_rows(x)
    for b in range(2):
        for number, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
            assert torch.equal(rows[8 * b + number], x[b, :, i, j, k])
    assert torch.equal(as_grid(rows, 2), x)


def test_cells_there_and_back() -> None:
    lists = [np.argwhere(one.numpy()) for one in occupancy()[:, 0]]
    shuffled = [np.random.default_rng(0).permutation(one) for one in lists]
    dense = occupancy_of([*shuffled, np.zeros((0, 3), np.int32)], 4)
    assert dense.dtype == torch.bool and torch.equal(dense[:2], occupancy())
    found = cells_of(dense.float(), 0.5)
    assert [one.dtype for one in found] == [np.int32] * 3 and found[2].shape == (0, 3)
    for cells, wanted in zip(found, lists, strict=False):
        assert cells.tolist() == sorted(map(list, wanted.tolist()))


def test_a_cell_exists_from_the_threshold_on() -> None:
    probability = torch.tensor([0.24, 0.25, 0.26, torch.nan, 0.0, 0.0, 0.0, 0.0])
    assert cells_of(probability.view(1, 1, 2, 2, 2), 0.25)[0].tolist() == [[0, 0, 1], [0, 1, 0]]


# --- the space -----------------------------------------------------------------------------------


def test_occupancy_itself() -> None:
    space = StructureSpace(scale=0.5)
    x0 = space.encode(occupancy())
    assert torch.equal(x0.abs(), torch.full_like(x0, 0.5)) and torch.equal(x0 > 0, occupancy())
    assert torch.equal(space.probability(x0), occupancy().float())
    said = space.probability(torch.tensor([-9.0, -0.25, 0.0, 0.4, 9.0]))
    torch.testing.assert_close(said, torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0]))


def test_latents_of_a_vae() -> None:
    vae, noise = small_vae(), torch.randn(2, 3, 2, 2, 2)
    space = StructureSpace(vae, STATISTICS)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (STATISTICS.mean, STATISTICS.std))
    with torch.no_grad():
        posterior = vae.encode(occupancy())
        wanted = ((posterior.mean - mean) / std).float()
        drawn = ((posterior.mean + posterior.std() * noise - mean) / std).float()
        logits = vae.decode((noise.double() * std + mean).float())
    torch.testing.assert_close(space.encode(occupancy()), wanted)
    torch.testing.assert_close(space.encode(occupancy(), noise), drawn)
    torch.testing.assert_close(space.probability(noise), torch.sigmoid(logits))
    torch.testing.assert_close(StructureSpace(vae).encode(occupancy()), posterior.mean)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(space.encode(occupancy()), wanted)  # fp32 whatever is around it


# --- sampling ------------------------------------------------------------------------------------


class Knows:
    """The exact velocity towards x0: what each sample is to become stands in its condition."""

    def __init__(self, truths: Tensor) -> None:
        self.truths = truths
        self.config = SimpleNamespace(grid=truths.shape[-1], latent_channels=truths.shape[1])
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, condition: PackedTokens) -> Tensor:
        self.calls += 1
        names = condition.feats[condition.cu_seqlens[:-1].long(), 0].long()
        return (x - self.truths[names]) / t.view(-1, 1, 1, 1, 1)


def told(*names: int) -> PackedTokens:
    return pack_tokens([torch.full((2, 1), float(name)) for name in names])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exact_flow_ends_in_the_cells_that_the_condition_says(scale: float) -> None:
    cells = occupancy(3)
    model: Any = Knows(StructureSpace(scale=scale).encode(cells))
    structure = Structure(model, None, 4, 0.5, scale=scale)
    found = sample_structure(structure, told(0, 2, 1), euler(), DRAW)
    for one, name in zip(found, (0, 2, 1), strict=True):
        assert np.array_equal(one, np.argwhere(cells[name, 0].numpy()))
    assert model.calls == 4


def test_through_the_decoder() -> None:
    space = StructureSpace(small_vae(), STATISTICS)
    model: Any = Knows(space.encode(occupancy()))
    structure = Structure(model, space.vae, 4, 0.1, STATISTICS)
    assert structure.space == space
    found = sample_structure(structure, told(1), euler(), DRAW)
    wanted = cells_of(space.probability(model.truths[1:]), 0.1)
    assert np.array_equal(found[0], wanted[0])


def small_dit() -> StructureDiT:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"grid": 4, "patch": 2, "latent_channels": 1, "channels": 24,
                             "blocks": 1, "heads": 2, "condition_channels": 5}  # fmt: skip
    model = StructureDiT(StructureDiTConfig(**sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_sample_depends_on_its_own_draw_alone() -> None:
    model, tokens = small_dit(), [torch.randn(n, 5) for n in (3, 4)]
    both = sample_space(model, pack_tokens(tokens), euler(scale=3.0), DRAW)
    alone = sample_space(model, pack_tokens(tokens[1:]), euler(scale=3.0), DRAW, [1])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
    other = sample_space(model, pack_tokens(tokens[1:]), euler(scale=3.0), DRAW, [0])
    assert (other - alone).abs().max() > 0.1


def test_one_pass_says_the_same_as_two() -> None:
    model, tokens, calls = small_dit(), pack_tokens([torch.randn(n, 5) for n in (3, 4)]), []
    model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    two = sample_space(model, tokens, euler(scale=3.0), DRAW)
    one = sample_space(model, tokens, euler(scale=3.0, one_pass=True), DRAW)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert calls == [2] * 8 + [4] * 4
    plain = sample_space(model, tokens, euler(), DRAW)
    assert (plain - two).abs().max() > 0.02  # guidance leads somewhere


def test_nothing_found_is_an_empty_list() -> None:
    model: Any = Knows(torch.full((1, 1, 4, 4, 4), -1.0))
    steps: list[int] = []
    found = sample_structure(
        Structure(model, None, 4, 0.5), told(0), euler(), DRAW, on_step=lambda: steps.append(1)
    )
    assert found[0].shape == (0, 3) and len(steps) == 4

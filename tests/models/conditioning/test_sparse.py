"""Sparse conditioning: which tokens, where; and that the background cannot reach the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.sparse.grids import random_grid
from threed_gen.models.conditioning.conditioner import Conditioner
from threed_gen.models.conditioning.config import ConditionConfig, PatchesConfig
from threed_gen.models.conditioning.patch_encoder import PatchEncoder
from threed_gen.models.conditioning.source import PictureItem
from threed_gen.models.conditioning.sparse import TokenLayout
from threed_gen.models.layers.cross_attention import PackedTokens
from threed_gen.models.ss_dit import SSDiT, tiny
from threed_gen.randomness import sample_noise
from threed_gen.sparse.sparse_tensor import SparseTensor
from threed_gen.sparse.voxel_grid import VoxelGrid

CHANNELS, PREFIX, PATCH = 32, 5, 8


class Given:
    """An encoder that answers with given features [B, T, C], one row for each picture."""

    channels = CHANNELS

    def __init__(self, layout: TokenLayout, features: Tensor) -> None:
        self.layout, self.features = layout, features

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.features[pictures[:, 0, 0, 0].long()]  # a picture's number is in its corner


def shapes(side: int = 6, room: int = 0) -> Tensor:
    """Masks [4, S, S] of pictures of side + room patches: nothing, a pixel, a blob, everything."""
    masks = torch.zeros(4, (side + room) * PATCH, (side + room) * PATCH)
    masks[1, PATCH * 2 + 7, PATCH * 3] = 1 / 255
    masks[2, 5:30, 9:41] = 1
    masks[3, : side * PATCH, : side * PATCH] = 0.5
    return masks


def pictures_of(masks: Tensor) -> Tensor:
    pictures = torch.ones(len(masks), 4, *masks.shape[1:])
    pictures[:, 0, 0, 0] = torch.arange(len(masks))
    pictures[:, 3] = masks
    return pictures


def condition(
    features: Tensor, masks: Tensor, order: list[int], sparse: bool = True
) -> PackedTokens:
    """Through the real conditioner, packed in `order`."""
    size = masks.shape[1]
    layout = TokenLayout(size, PATCH, PREFIX)
    config = ConditionConfig(size=size, sparse=sparse, augment=False)
    conditioner = Conditioner(config, Given(layout, features))  # type: ignore[arg-type]
    return packed(conditioner, pictures_of(masks)[order])


def packed(conditioner: Conditioner, pictures: Tensor) -> PackedTokens:
    """Prepared pictures through the conditioner: what `read` does after preparing them."""
    source = conditioner.source
    items = []
    for picture in pictures:
        layout = source.layout
        kept = source.config.sparse
        tokens = layout.foreground_tokens(picture[3]) if kept else layout.all_tokens()
        items.append(PictureItem(tokens, picture, None, None))
    return conditioner(source.pack(items))


def random_features(side: int = 6, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(4, PREFIX + side**2, CHANNELS, generator=draw)


# --- the choice ----------------------------------------------------------------------------------


def test_choice_and_places_as_by_hand() -> None:
    features, masks = random_features(), shapes()
    out = condition(features, masks, [0, 1, 2, 3])
    expected, places, lengths = [], [], []
    for b in range(4):
        chosen = [(features[b, i], (0, 0, 1)) for i in range(PREFIX)]
        for row in range(6):
            for column in range(6):
                part = masks[b, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                if (part > 0).any():
                    chosen.append((features[b, PREFIX + row * 6 + column], (column, row, 0)))
        expected += [feature for feature, _ in chosen]
        places += [place for _, place in chosen]
        lengths.append(len(chosen))
    assert lengths == [5, 6, 5 + 4 * 5, 5 + 36]
    assert out.seqlens == tuple(lengths)
    assert torch.equal(out.feats, torch.stack(expected))
    assert out.positions is not None
    assert out.positions.tolist() == [list(place) for place in places]
    assert out.positions.dtype == torch.int32
    assert out.cu_seqlens.tolist() == [0, *np.cumsum(lengths)]
    assert out.cu_seqlens.dtype == torch.int32


def test_all_tokens_without_sparse() -> None:
    features = random_features()
    out = condition(features, shapes(), [2, 0], sparse=False)
    assert torch.equal(out.feats, features[[2, 0]].flatten(0, 1))
    assert out.seqlens == (41, 41)
    assert out.positions is not None
    assert out.positions[:7].tolist() == [[0, 0, 1]] * 5 + [[0, 0, 0], [1, 0, 0]]


# --- through SS-DiT ------------------------------------------------------------------------------

COUNTS = [30, 40, 5, 25]


@pytest.fixture(scope="module")
def model() -> SSDiT:
    torch.manual_seed(0)
    model = SSDiT(tiny(project_condition=True, blocks=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def velocity(model: SSDiT, tokens: PackedTokens, order: list[int]) -> list[Tensor]:
    """Output [N_b, L] of each of the samples `order`, whose coordinates and noise are their own."""
    whole = random_grid(16, COUNTS)
    parts = whole.coords[:, 1:].split(COUNTS)
    rows_of = [torch.nn.functional.pad(parts[b], (1, 0), value=i) for i, b in enumerate(order)]
    coords = torch.cat(rows_of)
    grid, rows = VoxelGrid.from_coords(coords, 16, batch_size=len(order))
    noise = sample_noise(0, 0, "noise", order, [COUNTS[b] for b in order], 8)[rows]
    times = torch.tensor([0.9, 0.5, 0.2, 0.7])[order]
    with torch.no_grad():
        out = model(SparseTensor(noise, grid), times, tokens).feats
    assert float(out.abs().mean()) > 0.01
    return [*out.split([COUNTS[b] for b in order])]


ALL = [0, 1, 2, 3]


def test_background_features_cannot_be_seen_to_the_last_bit(model: SSDiT) -> None:
    features, masks = random_features(), shapes()
    layout = TokenLayout(masks.shape[1], PATCH, PREFIX)
    other = random_features(seed=1) * 100
    kept = other.clone()
    for b in ALL:
        tokens = layout.foreground_tokens(masks[b])
        kept[b, tokens] = features[b, tokens]
    assert not torch.equal(kept, features)
    before = velocity(model, condition(features, masks, ALL), ALL)
    after = velocity(model, condition(kept, masks, ALL), ALL)
    assert all(map(torch.equal, before, after))
    kept[2, PREFIX + 6 + 2] += 1  # a patch of the shape does matter, to its own sample only
    changed = velocity(model, condition(kept, masks, ALL), ALL)
    assert [torch.equal(*pair) for pair in zip(before, changed, strict=True)] == [
        True, True, False, True,
    ]  # fmt: skip
    everything = velocity(model, condition(kept, masks, ALL, sparse=False), ALL)
    assert not torch.equal(before[0], everything[0])


def test_more_background_around_changes_no_bit(model: SSDiT) -> None:
    features = random_features()
    larger = torch.randn(4, PREFIX + 9**2, CHANNELS)
    larger[:, :PREFIX] = features[:, :PREFIX]
    patches = larger[:, PREFIX:].unflatten(1, (9, 9))
    patches[:, :6, :6] = features[:, PREFIX:].unflatten(1, (6, 6))
    small, large = condition(features, shapes(), ALL), condition(larger, shapes(room=3), ALL)
    assert small.seqlens == large.seqlens
    assert torch.equal(small.feats, large.feats)
    assert torch.equal(small.positions, large.positions)  # type: ignore[arg-type]
    before, after = velocity(model, small, ALL), velocity(model, large, ALL)
    assert all(map(torch.equal, before, after))


def test_shuffled_samples_give_shuffled_outputs(model: SSDiT) -> None:
    features, masks = random_features(), shapes()
    tokens = condition(features, masks, ALL)
    order = [2, 0, 3, 1]
    shuffled = condition(features, masks, order)
    own, found = tokens.feats.split(tokens.seqlens), shuffled.feats.split(shuffled.seqlens)
    assert all(torch.equal(own[b], found[i]) for i, b in enumerate(order))
    before, after = velocity(model, tokens, ALL), velocity(model, shuffled, order)
    for i, b in enumerate(order):  # not to the bit: products round differently in other rows
        torch.testing.assert_close(before[b], after[i], rtol=0, atol=2e-6)


def test_a_picture_of_nothing_gives_the_tokens_of_the_whole(model: SSDiT) -> None:
    features, masks = random_features(), shapes()
    alone = condition(features, masks, [0])
    assert alone.seqlens == (PREFIX,)
    assert torch.equal(alone.feats, features[0, :PREFIX])
    assert velocity(model, alone, [0])[0].isfinite().all()


def test_from_pixels_with_the_built_in_encoder(model: SSDiT) -> None:
    torch.manual_seed(1)
    sizes = PatchesConfig(patch=PATCH, channels=CHANNELS, layers=0)
    results = []
    small = PatchEncoder(sizes, 48)
    for room in (0, 3):
        masks = shapes(room=room)
        pictures = torch.ones(4, 4, *masks.shape[1:])
        draw = torch.Generator().manual_seed(5)
        pictures[:, :3, :48, :48] = torch.rand(4, 3, 48, 48, generator=draw)
        pictures[:, 3] = masks
        encoder = PatchEncoder(sizes, 48 + room * PATCH)
        encoder.load_state_dict(small.state_dict())
        config = ConditionConfig(
            encoder="patches", size=48 + room * PATCH, sparse=True, augment=False, patches=sizes
        )
        with torch.no_grad():
            results.append(packed(Conditioner(config, encoder), pictures))
    torch.testing.assert_close(results[0].feats, results[1].feats, rtol=0, atol=1e-6)
    before, after = (velocity(model, tokens, ALL) for tokens in results)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)

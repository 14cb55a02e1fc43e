"""Patches of a dense grid against a loop over voxels, there and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from threed_gen.models.layers.dense_patches import patch_coords, patchify, unpatchify


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_are_their_definition(patch: int) -> None:
    counts, channels = (2, 3, 1), 4
    sides = tuple(patch * count for count in counts)
    x = np.random.default_rng(0).normal(size=(2, channels, *sides))
    wanted = np.full((2, 6, channels * patch**3), np.nan)
    coords = []
    for number, (a, b, c) in enumerate(itertools.product(*(range(n) for n in counts))):
        coords.append((a, b, c))
        for channel, i, j, k in itertools.product(range(channels), *[range(patch)] * 3):
            inside = ((channel * patch + i) * patch + j) * patch + k
            place = patch * a + i, patch * b + j, patch * c + k
            wanted[:, number, inside] = x[(slice(None), channel, *place)]
    tokens = patchify(torch.from_numpy(x), patch)
    np.testing.assert_array_equal(tokens.numpy(), wanted)
    np.testing.assert_array_equal(unpatchify(tokens, sides, patch).numpy(), x)
    assert patch_coords(sides, patch).tolist() == [list(place) for place in coords]

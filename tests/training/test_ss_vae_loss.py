"""The SS-VAE's loss on numbers worked out by hand, and its invariances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from threed_gen.data.batch import Batch, collate
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.sparse.voxel_grid import RASTER_TO_CANONICAL
from threed_gen.training.run_config import LossConfig
from threed_gen.training.tasks.ss_vae import loss_terms, loss_weights


def brick(band_voxels: int, sharp_voxels: int, inside: int = 0, at: int = 0) -> SparseSDF:
    """One brick: the first voxels are band with s = 0.5, the next `inside` ones are -1."""
    sdf = np.ones((1, 512), np.float32)
    band, sharp = np.zeros((1, 512), bool), np.zeros((1, 512), bool)
    band[0, :band_voxels], sharp[0, :sharp_voxels] = True, True
    sdf[0, :band_voxels] = 0.5
    sdf[0, band_voxels : band_voxels + inside] = -1.0
    return SparseSDF(
        np.array([[at, 0, 0]], np.int32), sdf, band, sharp, 32, 4 / 32, 1.0, (0.0, 0.0, 0.0)
    )


def moments(
    mean: list[list[float]], logvar: list[list[float]]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(mean), torch.tensor(logvar)


def test_by_hand() -> None:
    # 100 band voxels (10 of them sharp), 50 inside beyond the band, 362 outside beyond it.
    batch = collate([brick(100, 10, inside=50)])
    decoded = torch.zeros(512)  # ŝ = 0: errors 0.25 in the band and 1 elsewhere
    mean, logvar = moments([[1.0, -2.0]], [[0.0, math.log(4.0)]])
    terms = loss_terms(decoded, batch, mean, logvar)[0]
    assert terms[0].item() == pytest.approx(0.25)
    assert terms[1].item() == pytest.approx(1.0)
    assert terms[2].item() == pytest.approx(0.25)
    # ½(1 + 1 − 1 − 0) = 0.5 and ½(4 + 4 − 1 − ln 4) = 3.5 − ln 2; mean over two channels
    assert terms[3].item() == pytest.approx((0.5 + 3.5 - math.log(2.0)) / 2)
    total = float(terms @ loss_weights(LossConfig()))
    assert total == pytest.approx(0.25 + 0.1 + 0.25 + 1e-3 * (4.0 - math.log(2.0)) / 2)


def test_sign_and_side_count() -> None:
    """Right sign everywhere costs nothing, the opposite sign costs (2s)²."""
    batch = collate([brick(100, 10, inside=50)])
    mean, logvar = moments([[0.0]], [[0.0]])
    right = loss_terms(batch.target.clone(), batch, mean, logvar)[0]
    wrong = loss_terms(-batch.target, batch, mean, logvar)[0]
    assert right.tolist() == [0, 0, 0, 0]
    assert wrong.tolist() == pytest.approx([1.0, 4.0, 1.0, 0.0])


def test_targets_are_in_decoder_order() -> None:
    shape = brick(100, 10)
    batch = collate([shape])
    raster = torch.empty(512)
    raster[RASTER_TO_CANONICAL] = batch.target
    assert torch.equal(raster, torch.from_numpy(shape.sdf[0]))
    assert torch.equal(batch.inputs.feats.unique(), torch.tensor([0.5]))


def test_empty_sets_give_zero_and_no_gradient() -> None:
    batch = collate([brick(512, 0)])
    decoded = torch.zeros(512, requires_grad=True)
    mean, logvar = moments([[0.0]], [[0.0]])
    terms = loss_terms(decoded, batch, mean, logvar)[0]
    assert terms[1].item() == 0 and terms[2].item() == 0
    terms[2].backward(retain_graph=True)
    assert decoded.grad is not None
    assert torch.equal(decoded.grad, torch.zeros(512))


def test_a_sample_counts_the_same_in_any_batch() -> None:
    """Means over a sample's own voxels: small and large samples weigh alike."""
    small, large = brick(100, 10), brick(300, 0)
    large = replace(
        large,
        bricks=np.array([[0, 0, 0], [1, 0, 0]], np.int32),
        sdf=np.repeat(large.sdf, 2, 0), band=np.repeat(large.band, 2, 0),
        sharp=np.repeat(large.sharp, 2, 0),
    )  # fmt: skip
    decoded = torch.linspace(-1, 1, 512)
    mean, logvar = moments([[0.3], [0.1], [0.2]], [[0.5], [0.2], [-0.2]])
    alone = [
        loss_terms(decoded, collate([small]), mean[:1], logvar[:1]),
        loss_terms(decoded.repeat(2), collate([large]), mean[1:], logvar[1:]),
    ]
    both: Batch = collate([small, large])
    together = loss_terms(decoded.repeat(3), both, mean, logvar)
    assert torch.allclose(together, torch.cat(alone), rtol=1e-6)

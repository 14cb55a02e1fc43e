"""A shape through the model and back: order of voxels, mode of the model, no sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import nn

from threed_gen.data.batch import collate
from threed_gen.generation.reconstruct import reconstruct
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.posterior import Posterior
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.sparse.sparse_tensor import SparseTensor

TINY = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=2, encoder_blocks=1,
    decoder_blocks=1, heads=2, norm_groups=4, mean_head_init="xavier", output_init="xavier",
)  # fmt: skip


@pytest.fixture(scope="module")
def truth() -> SparseSDF:
    box = trimesh.creation.box((1.0, 0.6, 0.4))
    return build_sparse_sdf(Mesh(np.asarray(box.vertices), np.asarray(box.faces)), 32)


class Perfect(nn.Module):
    """Stands in for a model whose decoder knows the answer, in the decoder's own voxel order."""

    def __init__(self, truth: SparseSDF) -> None:
        super().__init__()
        self.batch = collate([truth])
        self.was_training: list[bool] = []

    def encode(self, inputs: SparseTensor) -> Posterior:
        self.was_training.append(self.training)
        assert torch.equal(inputs.feats, self.batch.inputs.feats)
        return Posterior(inputs, inputs)

    def decode(self, _: SparseTensor, chunk: int | None = None) -> Answer:
        return Answer(self.batch.target.unsqueeze(1) * 1.5)  # beyond ±1: has to come back clipped


class Answer:
    """Only the features of a sparse tensor: nothing else of it may be needed."""

    def __init__(self, feats: torch.Tensor) -> None:
        self.feats = feats


def test_every_voxel_comes_back_in_its_place(truth: SparseSDF) -> None:
    model = Perfect(truth)
    result = reconstruct(model, truth, "cpu")  # type: ignore[arg-type]
    assert np.array_equal(result.sdf, np.clip(truth.sdf * 1.5, -1, 1))
    assert np.array_equal(result.bricks, truth.bricks)
    assert (result.resolution, result.tau, result.scale, result.offset) == (
        truth.resolution, truth.tau, truth.scale, truth.offset,
    )  # fmt: skip
    assert np.array_equal(result.band, np.abs(result.sdf) < 1)
    assert not result.sharp.any()


@pytest.mark.parametrize("training", [True, False])
def test_model_is_used_in_eval_mode_and_given_back(truth: SparseSDF, training: bool) -> None:
    model = Perfect(truth).train(training)
    reconstruct(model, truth, "cpu")  # type: ignore[arg-type]
    assert model.was_training == [False]
    assert model.training is training


def test_real_model_gives_the_mean_not_a_sample(truth: SparseSDF) -> None:
    torch.manual_seed(0)
    model = SSVAE(TINY)
    first = reconstruct(model, truth, "cpu")
    torch.manual_seed(1)
    second = reconstruct(model, truth, "cpu")
    assert np.array_equal(first.sdf, second.sdf)
    assert first.sdf.std() > 0
    assert np.abs(first.sdf).max() <= 1
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        latent = model.encode(collate([truth]).inputs).mean
        decoded = model.decode(latent).feats
    assert sorted(decoded.ravel().tolist()) == sorted(first.sdf.ravel().tolist())
    pieces = reconstruct(model, truth, "cpu", chunk=2)
    np.testing.assert_allclose(pieces.sdf, first.sdf, atol=1e-6)

"""The structure VAE's task by itself: its loss by hand, its draws, its samples, its verdict."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import structures
from threed_gen.data.dataset import SDFDataset
from threed_gen.errors import UserError
from threed_gen.models.structure_vae import DensePosterior
from threed_gen.randomness import generator
from threed_gen.training.loader import StepDataset
from threed_gen.training.run_config import StructureVAERun, load_run_config
from threed_gen.training.tasks.structure_samples import EqualDataset
from threed_gen.training.tasks.structure_vae import (
    StructureVAEModule,
    StructureVAETask,
    loss_terms,
    loss_weights,
)
from threed_gen.training.validate_structure import cell_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource

    folder = tmp_path_factory.mktemp("data") / "data"
    prepare(ProceduralSource(6, 3), folder, [structures.RESOLUTION], workers=0)
    return folder


def opened(*overrides: str) -> tuple[StructureVAERun, StructureVAETask, StructureVAEModule]:
    config = load_run_config(structures.TINY_VAE, [*overrides])
    assert isinstance(config, StructureVAERun)
    task = StructureVAETask(config)
    module = task.build_module()
    assert isinstance(module, StructureVAEModule)
    return config, task, module


# --- the loss ------------------------------------------------------------------------------------


def flat_posterior(count: int) -> DensePosterior:
    return DensePosterior(torch.full((count, 1, 1, 1, 1), 2.0), torch.zeros(count, 1, 1, 1, 1))


def test_terms_by_hand() -> None:
    """Two samples of eight cells, each by its own sum; KL of mean 2 and variance 1 is 2."""
    logits = torch.tensor([[2.0, -1.0, 0.0, 0.5, -3.0, 1.0, 4.0, -2.0], [0.3] * 8])
    truth = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0], [0] * 8])
    found = loss_terms(
        logits.view(2, 1, 2, 2, 2), truth.view(2, 1, 2, 2, 2).bool(), flat_posterior(2)
    )
    for row in range(2):
        said = [1 / (1 + math.exp(-x)) for x in logits[row].tolist()]
        real = truth[row].tolist()
        bce = -sum(math.log(p if y else 1 - p) for p, y in zip(said, real, strict=True)) / 8
        shared = sum(p * y for p, y in zip(said, real, strict=True))
        dice = 1 - (2 * shared + 1) / (sum(said) + sum(real) + 1)
        assert found[row].tolist() == pytest.approx([bce, dice, 2.0], rel=1e-5)


def test_a_perfect_answer_costs_nothing() -> None:
    truth = torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.2
    perfect = loss_terms((truth.float() * 2 - 1) * 50, truth, flat_posterior(2))
    assert float(perfect[:, :2].abs().max()) < 1e-6
    empty = loss_terms(torch.full((1, 1, 4, 4, 4), -50.0), truth[:1] & False, flat_posterior(1))
    assert float(empty[:, :2].abs().max()) < 1e-6


def test_a_sample_costs_the_same_alone(data: Path) -> None:
    """Its own noise, drawn for its place in the global batch; weights of the terms."""
    config, task, module = opened("loss.bce=0.5", "loss.dice=2.0", "loss.kl=0.1")
    dataset = SDFDataset(data)
    samples = task.samples(dataset)
    step = StepDataset(config, samples, 0, 1)[4]
    batch = step.micro[0]
    result = module(batch, 4)
    assert result.terms.shape == (3, 3) and result.watched.shape == (3, 4)
    for row, position in enumerate(batch.positions):
        item = samples.load(step.samples[position], structures.RESOLUTION, 4, position)
        cells = dataset.load(step.samples[position], structures.RESOLUTION).bricks
        assert np.array_equal(item.cells, cells)
        alone = samples.pack([item], ["alone"], [position])
        assert torch.equal(alone.occupancy[0], batch.occupancy[row])
        noise = torch.randn(3, 2, 2, 2, generator=generator(7, 4, "posterior", position))
        logits, posterior = module.model(alone.occupancy, noise[None])
        terms = loss_terms(logits, alone.occupancy, posterior)[0]
        torch.testing.assert_close(result.terms[row], terms.detach(), rtol=1e-4, atol=1e-6)
        wanted = 0.5 * terms[0] + 2.0 * terms[1] + 0.1 * terms[2]
        torch.testing.assert_close(result.weighted[row], wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(loss_weights(config.loss), torch.tensor([0.5, 2.0, 0.1]))


def test_watched_numbers(data: Path) -> None:
    _, task, module = opened()
    samples = task.samples(SDFDataset(data))
    batch = samples.pack([samples.fixed(i, 32) for i in range(2)], ["a", "b"], [0, 1])
    with torch.no_grad():
        posterior = module.model.encode(batch.occupancy)
        watched = module(batch, 0).watched
    for row in range(2):
        mean, std = posterior.mean[row], posterior.std()[row]
        active = sum(float(kl.mean()) > 0.01 for kl in posterior.kl()[row])
        wanted = [mean.mean(), mean.std(unbiased=False), std.mean(), active]
        assert watched[row].tolist() == pytest.approx([float(x) for x in wanted], rel=1e-5)


# --- samples -------------------------------------------------------------------------------------


def test_ranks_get_equally_many_samples(data: Path) -> None:
    """Whatever number of cells exist: a dense grid costs the same."""
    config, task, _ = opened("train.batch_samples=6")
    dataset = SDFDataset(data)
    assert len(set(dataset.token_counts(32).tolist())) > 1, "the shapes should differ"
    equal = task.samples(dataset).dataset
    assert isinstance(equal, EqualDataset) and equal.token_counts(32).tolist() == [8] * 6
    for rank in range(2):
        step = StepDataset(config, task.samples(dataset), rank, 2)[0]
        assert [len(micro.positions) for micro in step.micro] == [3] and step.imbalance == 1.0
        assert step.micro[0].tokens == [8] * 3
    only = equal.only({equal.entry(0).id}, "all others")
    assert only.token_counts(32).tolist() == [8] and len(equal) == 6
    with pytest.raises(UserError, match="resolution 64 is not stored"):
        equal.token_counts(64)


def test_samples_travel_to_workers_and_stand_ins_can_be_trained_on(data: Path) -> None:
    _, task, module = opened()
    samples = task.samples(SDFDataset(data))
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again.load(1, 32, 3, 0).cells, samples.load(1, 32, 3, 0).cells)
    padding = samples.padding(32)
    assert padding.is_padding and not padding.occupancy.any() and padding.tokens == [8]
    assert module(padding, 0).weighted.isfinite().all()


# --- the verdict ---------------------------------------------------------------------------------


def test_metrics_of_cells_by_hand() -> None:
    truth = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]])
    found = np.array([[0, 0, 1], [1, 1, 1], [1, 1, 0]])
    wanted = {"iou": 2 / 5, "precision": 2 / 3, "recall": 2 / 4, "cells": 3, "true_cells": 4}
    assert cell_metrics(found, truth) == pytest.approx(wanted)
    none = np.zeros((0, 3), np.int32)
    assert cell_metrics(none, truth)["precision"] is None
    assert cell_metrics(none, truth)["recall"] == 0 and cell_metrics(none, truth)["iou"] == 0
    assert cell_metrics(none, none)["iou"] == 1 and cell_metrics(truth, none)["recall"] is None


def test_validation(data: Path) -> None:
    """At the run's threshold; numbers that are not finite are null, and drawn nonetheless."""
    config, task, module = opened()
    dataset, device = SDFDataset(data), torch.device("cpu")
    weights = task.weights_of(module.state_dict())
    (shape,) = task.validate(weights, dataset, [2], device)
    batch = task.samples(dataset)
    item = batch.fixed(2, 32)
    model = module.model.eval()
    with torch.no_grad():
        occupancy = batch.pack([item], ["x"], [0]).occupancy
        chance = torch.sigmoid(model.decode(model.encode(occupancy).mean))
    found = torch.nonzero(chance[0, 0] >= config.threshold).numpy()
    for key, value in cell_metrics(found, item.cells).items():
        assert shape.metrics[key] == pytest.approx(value)
    assert [panel.title for panel in shape.panels] == ["true cells", "reconstructed cells"]
    assert task.score(shape.metrics) == shape.metrics["iou"] and task.score({}) is None
    weights["decoder.out_layer.2.bias"] = torch.full((1,), torch.nan)
    (shape,) = task.validate(weights, dataset, [2], device)
    assert shape.metrics["bce"] is None and shape.metrics["cells"] == 0
    json.dumps(shape.metrics, allow_nan=False)


def test_what_does_not_fit_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="24 has 3 latent cells per axis, which must be a multiple"):
        opened("data.resolutions=[24]")


def test_warnings() -> None:
    _, task, _ = opened()
    fine: dict[str, Any] = {"active_channels": 2, "posterior_std": 0.1, "latent_std": 1, "kl": 1}
    assert task.warnings(fine) == []
    assert "posterior collapse" in task.warnings(fine | {"active_channels": 0,
                                                         "posterior_std": 0.95})[0]  # fmt: skip
    assert "without bound" in task.warnings(fine | {"kl": 2000})[0]

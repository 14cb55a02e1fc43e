"""Whole runs of the tiny structure stage: on occupancy and on latents, resume, ranks and stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training import runs, structures
from threed_gen.generation.structure import cells_of
from threed_gen.training.load_structure import load_structure, load_structure_vae

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TOLERANCE = 1e-5  # relative, fp32, peak learning rate 1e-4
LOOK = ["validation.shapes=2", "train.validate_every=10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return structures.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of the structure VAE."""
    folder = tmp_path_factory.mktemp("vae")
    return structures.train(folder, structures.TINY_VAE, [f"data.path={data}", *LOOK])


@pytest.fixture(scope="module")
def on_occupancy(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of the structure DiT, without a VAE."""
    folder = tmp_path_factory.mktemp("occupancy")
    return structures.train(folder, structures.TINY_DIT, [f"data.path={data}", *LOOK])


@pytest.fixture(scope="module")
def on_latents(data: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on the latents of the VAE."""
    folder = tmp_path_factory.mktemp("latents")
    overrides = [
        f"data.path={data}", f"structure.run={vae}", "structure.draw=sample", "model.grid=2",
        "model.patch=1", "model.latent_channels=3", *LOOK,
    ]  # fmt: skip
    return structures.train(folder, structures.TINY_DIT, overrides)


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "checkpoints" / "step_00000020" / "rank_00000.safetensors")


@pytest.mark.parametrize("which", ["vae", "on_occupancy", "on_latents"])
def test_a_killed_run_goes_on_exactly(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """From the checkpoint of step 10: losses, weights, moments, average and validation."""
    expected: Path = request.getfixturevalue(which)
    run = tmp_path / "run"
    shutil.copytree(expected, run)
    (run / "finished.json").unlink()
    for step in (15, 20):
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    code = runs.finish("python", 1, ["--resume", str(run)], tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    assert runs.losses(run) == runs.losses(expected)
    own, other = weights(run), weights(expected)
    assert own.keys() == other.keys() and all(own[name].equal(other[name]) for name in other)
    assert (run / "validation.jsonl").read_text() == (expected / "validation.jsonl").read_text()
    if which == "on_latents":
        assert (run / "sources.json").read_text() == (expected / "sources.json").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize(("ranks", "stage"), [(2, 0), (2, 2), (2, 3)])
@pytest.mark.parametrize("which", ["vae", "on_occupancy"])
def test_ranks_and_stages_agree(
    data: Path, which: str, request: pytest.FixtureRequest, tmp_path: Path, ranks: int, stage: int
) -> None:
    config = structures.TINY_VAE if which == "vae" else structures.TINY_DIT
    overrides = [f"data.path={data}", *runs.stage_overrides(stage)]
    found = runs.losses(structures.train(tmp_path, config, overrides, ranks))
    truth = runs.losses(request.getfixturevalue(which))
    assert sorted(found) == sorted(truth) == list(range(1, 21))
    worst = max(abs(float.fromhex(found[step]) / float.fromhex(truth[step]) - 1) for step in truth)
    assert worst <= TOLERANCE, f"losses differ by {worst:.2e}"


def test_a_run_is_loaded_as_its_average(on_latents: Path, vae: Path) -> None:
    loaded, expected = load_structure(on_latents), weights(on_latents)
    dit = dict(loaded.structure.dit.named_parameters())
    for name, value in dit.items():
        assert torch.equal(value.flatten(), expected[f"average/model.{name}"]), name
    raw = load_structure(on_latents, "model").structure.dit
    for name, value in raw.named_parameters():
        assert torch.equal(value.flatten(), expected[f"parameter/model.{name}"]), name
    for name, value in loaded.conditioner.named_parameters():
        assert torch.equal(value.flatten(), expected[f"average/conditioner.{name}"]), name
    structure = loaded.structure
    assert structure.vae is not None and not structure.dit.training and loaded.step == 20
    assert structure.grid == 4 and structure.threshold == 0.5
    again = load_structure_vae(vae).model
    z = torch.randn(1, 3, 2, 2, 2)
    assert torch.equal(structure.vae.decode(z), again.decode(z))
    told = json.loads((on_latents / "sources.json").read_text())["statistics"]
    assert structure.statistics is not None
    assert structure.statistics.mean.tolist() == told["mean"]
    assert len(cells_of(structure.space.probability(z), 0.5)) == 1


def test_validation_and_its_pictures(on_latents: Path, vae: Path) -> None:
    for run, keys in ((vae, {"bce", "dice", "kl"}), (on_latents, {"loss", "roundtrip_iou"})):
        records = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [10, 20]
        for shape in records[-1]["shapes"]:
            assert {"iou", "precision", "recall", "cells", *keys} <= set(shape)
        assert (run / "previews" / "step_00000020.png").is_file()

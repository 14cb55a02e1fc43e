"""The tiny SS-DiT learns what it is shown: one latent, eight shapes by their images, and a swap.

Eight shapes on one common token set (docs/expected/ss_dit_data): where the cells lie tells nothing,
so a sample that is right must have looked at its image. An SS-VAE is trained here, so that samples
can be decoded too.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common_tokens import DATA, train_vae
from tests.training import runs
from threed_gen.data.dataset import SDFDataset
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.generation.latents import sample_latents
from threed_gen.randomness import generator
from threed_gen.training.load import newest_of, weights_of
from threed_gen.training.run_config import SSDiTRun
from threed_gen.training.tasks.ss_dit import SSDiTModule, SSDiTTask
from threed_gen.training.validate_flow import relative_l2

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CONFIG = runs.ROOT / "configs" / "ss_dit" / "tiny.yaml"
EULER = SamplerConfig.model_validate(
    {"steps": 20, "shift": 1.0, "spacing": "even", "guidance": {"scale": 1.0}}
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("vae") / "run"
    train_vae(DATA, run)
    return run


def train(folder: Path, vae: Path, data: Path, *overrides: str) -> Path:
    """The tiny config on some of the shapes; latents on the fly."""
    run = folder / "run"
    arguments = ["--config", str(CONFIG), "--out", str(run), f"data.path={data}",
                 f"latents.run={vae}", "data.resolutions=[32]", "condition.held_out_views=0",
                 *overrides]  # fmt: skip
    code = runs.finish("python", 1, arguments, folder / "log", timeout=1200)
    assert code == 0, (folder / "log").read_text()[-3000:]
    return run


def last_validation(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "validation.jsonl").read_text().splitlines()[-1])
    return record


@pytest.fixture(scope="module")
def eight(vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("eight"), vae, DATA, "train.batch_samples=8",
                 "validation.shapes=8", "train.validate_every=1000")  # fmt: skip


def test_one_latent_and_one_condition(vae: Path, tmp_path: Path) -> None:
    data = tmp_path / "one"
    shutil.copytree(DATA, data)
    dataset = SDFDataset(data)
    dataset.only({dataset.entry(0).id}, "all others").index.save(data)
    # Uniform times: the ends of the path are seen too, where one latent has most to learn.
    run = train(tmp_path, vae, data, "train.steps=1200", "train.batch_samples=1",
                "flow.condition_dropout=0.0", "flow.times.density=uniform",
                "validation.shapes=1")  # fmt: skip
    assert last_validation(run)["mean"]["relative_l2"] <= 0.05


def test_eight_shapes_by_their_images(eight: Path) -> None:
    record = last_validation(eight)
    assert len(record["shapes"]) == 8
    assert record["mean"]["relative_l2"] <= 0.12
    for shape in record["shapes"]:
        assert shape["roundtrip_iou"] > 0.9, shape["name"]
        assert shape["iou"] >= shape["roundtrip_iou"] - 0.03, shape["name"]


def test_swapping_the_images_swaps_the_results(eight: Path) -> None:
    config, checkpoint = newest_of(eight)
    assert isinstance(config, SSDiTRun)
    task, dataset = SSDiTTask(config), SDFDataset(DATA)
    task.open(dataset, eight)
    module = task.build_module()
    assert isinstance(module, SSDiTModule)
    module.load_state_dict(weights_of(checkpoint, "ema"))
    module.eval()
    samples = task.samples(dataset)
    items = [samples.fixed(i, 32) for i in range(len(dataset))]
    shown = [replace(item, shown=items[i - 1].shown) for i, item in enumerate(items)]
    names, places = [entry.id for entry in dataset.index.samples], list(range(len(items)))
    batch = samples.pack(shown, names, places)
    truth = samples.pack(items, names, places).latents.split()
    with torch.no_grad():
        condition = module.conditioner(batch.shown)
        made = sample_latents(
            module.model, batch.latents.grid, condition, EULER, partial(generator, 0, 0)
        ).split(batch.tokens)
    for i, result in enumerate(made):
        assert relative_l2(result, truth[i - 1]) <= 0.2, f"{names[i]} shown {names[i - 1]}"
        assert relative_l2(result, truth[i]) > 0.5, names[i]

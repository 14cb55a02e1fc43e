"""The tiny structure stage learns what it is shown: eight shapes there and back, and by images.

Eight procedural shapes at 64³, so 8³ cells, with one picture each. The structure DiT denoises their
occupancy itself; a sample that is right must have looked at its picture.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import runs, structures
from threed_gen.data.dataset import SDFDataset
from threed_gen.generation.structure import sample_structure
from threed_gen.randomness import generator
from threed_gen.training.load_structure import load_structure
from threed_gen.training.tasks.shown import Shown
from threed_gen.training.validate_structure import cell_metrics

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CONFIGS = runs.ROOT / "configs"
SHAPES = 8


def last_validation(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "validation.jsonl").read_text().splitlines()[-1])
    return record


def test_structure_vae(tmp_path: Path) -> None:
    """At the released threshold, which asks more of precision than 0.5 does."""
    config = CONFIGS / "structure_vae" / "tiny.yaml"
    overrides = [
        f"data.procedural.count={SHAPES}",
        "train.steps=300",
        f"validation.shapes={SHAPES}",
    ]
    mean = last_validation(structures.train(tmp_path, config, overrides))["mean"]
    assert mean["iou"] >= 0.98 and mean["recall"] >= 0.99, mean


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute on one core."""
    overrides = [
        f"data.procedural.count={SHAPES}", "data.procedural.views=1", f"validation.shapes={SHAPES}",
        "train.steps=500", "train.validate_every=500", "flow.condition_dropout=0.0",
        "validation.sampler.guidance.scale=1.0", "condition.held_out_views=0",
    ]  # fmt: skip
    config = CONFIGS / "structure_dit" / "tiny.yaml"
    return structures.train(tmp_path_factory.mktemp("eight"), config, overrides)


def test_eight_shapes_by_their_images(eight: Path) -> None:
    record = last_validation(eight)
    assert len(record["shapes"]) == SHAPES
    assert record["mean"]["iou"] >= 0.95, record["mean"]
    assert record["mean"]["recall"] >= 0.98, record["mean"]


def test_swapping_the_images_swaps_the_results(eight: Path) -> None:
    loaded = load_structure(eight)
    (index,) = (eight / "data").glob("*/index.jsonl")
    dataset = SDFDataset(index.parent)
    reader = Shown(loaded.config.condition, dataset).reader(loaded.conditioner, 0)
    samples = dataset.index.samples
    shown = [reader.fixed(samples[i - 1]) for i in range(SHAPES)]
    truths = [dataset.load(i, 64).bricks for i in range(SHAPES)]
    with torch.no_grad():
        condition = loaded.conditioner(reader.pack(shown))
    found = sample_structure(
        loaded.structure, condition, loaded.config.validation.sampler, partial(generator, 0, 0)
    )
    for i, cells in enumerate(found):
        told = f"{samples[i].id} shown {samples[i - 1].id}"
        assert cell_metrics(cells, truths[i - 1])["iou"] >= 0.85, told
        assert cell_metrics(cells, truths[i])["iou"] < 0.75, told

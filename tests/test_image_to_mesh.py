"""Eight shapes, one picture of each, all three models: the mesh of a picture is its own shape.

The pictures alone say which shape is meant: cells come from the structure stage, latents from the
SS-DiT, the field from the SS-VAE's decoder. (The quickstart's own test asks the same of pictures
that training never saw.)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.training import runs
from threed_gen import cli
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.views.view_set import ViewSet
from threed_gen.quickstart.corridor import CONFIGS

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
SHAPES = 8


def train(folder: Path, task: str, *overrides: str) -> Path:
    """A tiny config at 32³ on the one view of each shape."""
    run = folder / task
    arguments = ["--config", str(CONFIGS / task / "tiny.yaml"), "--out", str(run),
                 f"data.path={folder / 'data'}", "data.resolutions=[32]", *overrides]  # fmt: skip
    code = runs.finish("python", 1, arguments, folder / f"{task}.log", timeout=1200)
    assert code == 0, (folder / f"{task}.log").read_text()[-3000:]
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource
    from threed_gen.data.views.params import ViewParams
    from threed_gen.data.views.stage import prepare_views

    folder = tmp_path_factory.mktemp("corridor")
    source = ProceduralSource(SHAPES, 0)
    prepare(source, folder / "data", [32], workers=0)
    prepare_views(source, folder / "data", ViewParams(1, "paper", 128), workers=0)
    shown = ["condition.held_out_views=0", "flow.condition_dropout=0.0",
             "validation.sampler.guidance.scale=1.0"]  # fmt: skip
    vae = train(folder, "ss_vae", "train.steps=1200")
    structure = train(
        folder, "structure_dit", "model.grid=4", "model.patch=1", "train.steps=500", *shown
    )
    train(
        folder, "ss_dit", f"latents.run={vae}", f"structure.run={structure}", "train.steps=800",
        "train.batch_samples=8", *shown,
    )  # fmt: skip
    return folder


def test_the_mesh_of_a_picture_is_its_own_shape(trained: Path, tmp_path: Path) -> None:
    views = ViewSet(trained / "data")
    images = []
    for entry in SDFDataset(trained / "data").index.samples:
        images.append(tmp_path / f"{entry.id}.png")
        Image.fromarray(views.load(entry.id, 0).rgba).save(images[-1])
    made, out = tmp_path / "made", tmp_path / "evaluated"
    words = ["generate", *map(str, images), "--run", str(trained / "ss_dit"), "--out", f"{made}/"]
    assert cli.main([*words, "--batch", str(SHAPES)]) == 0
    assert len(list(made.glob("*.glb"))) == SHAPES
    words = ["evaluate", str(made), "--against", str(trained / "data"), "--align", "unit"]
    few = ["--points", "20000", "--paper-points", "20000"]
    assert cli.main([*words, "--nearest", *few, "--out", str(out)]) == 0
    nearest = json.loads((out / "summary.json").read_text())["nearest"]
    assert nearest["of"] == SHAPES and nearest["right"] >= 7, nearest

"""Captions as the condition of an SS-DiT: read from the data set's index, drawn by no dice."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import pytest
import torch

from tests.models.conditioning.test_text import numbers, save_clip
from tests.training import corridor
from tests.training.vae_runs import write_run
from threed_gen.config import to_yaml
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.prepare import prepare
from threed_gen.data.procedural.families import make_mesh
from threed_gen.data.source_kinds.manifest import ManifestSource
from threed_gen.errors import UserError
from threed_gen.geometry.mesh_io import save_mesh
from threed_gen.training.encode import FrozenVAE, encode_dataset
from threed_gen.training.loader import StepDataset
from threed_gen.training.run_config import SSDiTRun, load_run_config
from threed_gen.training.tasks.ss_dit import SSDiTModule, SSDiTTask

CAPTIONS = ["a ball", "a chair with arms", "", "one cup"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    """Four shapes without views; one of them has no caption."""
    folder = tmp_path_factory.mktemp("captioned")
    meshes = folder / "meshes"
    meshes.mkdir()
    with (meshes / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption"])
        for number, caption in enumerate(CAPTIONS):
            save_mesh(make_mesh(number, 3)[1], meshes / f"shape{number}.ply")
            table.writerow([f"shape{number}.ply", caption])
    found = corridor.Corridor(folder / "data", folder / "vae", folder / "latents")
    prepare(ManifestSource(meshes / "table.csv"), found.data, [16], workers=0)
    write_run(found.vae, corridor.VAE, [16])
    vae = FrozenVAE(found.vae, device="cpu")
    encode_dataset(vae, SDFDataset(found.data), found.latents, [16])
    save_clip(folder / "clip")
    return found


def overrides(where: corridor.Corridor) -> list[str]:
    clip = where.data.parent / "clip"
    told = ["condition.encoder=text", "condition.sparse=false", f"condition.text.source={clip}"]
    return [*where.cached, *told]


def test_a_captions_tokens_reach_the_model(
    captioned: corridor.Corridor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_run_config(corridor.TINY_DIT, overrides(captioned))
    assert isinstance(config, SSDiTRun)
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))  # as a run directory keeps it, every default written out
    assert load_run_config(again) == config
    task, dataset = SSDiTTask(config), SDFDataset(captioned.data)
    task.prepare(dataset, tmp_path)
    dataset = task.open(dataset, tmp_path)
    assert "left out (no caption): shape2" in capsys.readouterr().err
    assert len(dataset) == 3 and dataset.left_out == {"no caption": 1}
    module = task.build_module()
    assert isinstance(module, SSDiTModule)
    torch.nn.init.normal_(module.model.out_layer.weight, std=0.1)
    samples = pickle.loads(pickle.dumps(task.samples(dataset)))  # as it travels to a worker

    batch = StepDataset(config, samples, 0, 1)[3].micro[0]
    assert sorted(batch.names) == ["shape0", "shape1", "shape3"]
    lengths = [len(numbers(CAPTIONS[int(name[-1])])) for name in batch.names]
    result = module(batch, 3)
    assert result.weighted.isfinite().all()
    assert [int(n) for n in result.watched[:, 2]] == lengths  # time, dropped, condition tokens

    # The words matter, and nothing else that could: the same item under another caption.
    item = samples.fixed(0, 16)
    said = {}
    for caption in ("a ball", "a bell"):
        one = samples.pack([type(item)(item.bricks, item.x0, 16, caption)], ["x"], [0])
        said[caption] = module.model(
            one.latents, torch.tensor([0.5]), module.conditioner(one.shown)
        )
    assert not torch.equal(said["a ball"].feats, said["a bell"].feats)

    (shape,) = task.validate(
        task.weights_of(module.state_dict()), dataset, [1], torch.device("cpu")
    )
    assert shape.note.startswith("“a chair with arms” rel. L2 ")
    assert [panel.title for panel in shape.panels] == ["truth", "VAE round trip", "sample"]
    assert samples.padding(16).shown.captions == ("",)
    assert module(samples.padding(16), 0).weighted.isfinite().all()


def test_keys_of_pictures_are_refused(captioned: corridor.Corridor) -> None:
    with pytest.raises(UserError, match="sparse is of pictures"):
        load_run_config(corridor.TINY_DIT, [*captioned.cached, "condition.encoder=text"])


@pytest.mark.long
def test_a_run_with_captions(captioned: corridor.Corridor, tmp_path: Path) -> None:
    """The whole way through the trainer, its validation and its page of previews included."""
    more = ["train.steps=4", "train.validate_every=4", "validation.shapes=2"]
    run = corridor.train(tmp_path, [*overrides(captioned), *more])
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 4

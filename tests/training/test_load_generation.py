"""What an SS-DiT's run remembers, as training writes it, is what `generate` finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import corridor
from tests.training.generation_runs import write_dit, write_structure
from tests.training.vae_runs import write_run
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.errors import UserError
from threed_gen.training.load_generation import load_latent_stage, structure_of
from threed_gen.training.run_config import SSDiTRun, load_run_config
from threed_gen.training.tasks.ss_dit import SSDiTTask


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    return corridor.build(tmp_path_factory.mktemp("corridor"))


def begun(where: corridor.Corridor, run: Path, *overrides: str) -> SSDiTTask:
    """A run that has looked at its sources and trained nothing."""
    config = load_run_config(corridor.TINY_DIT, [*where.cached, *overrides])
    assert isinstance(config, SSDiTRun)
    task, dataset = SSDiTTask(config), SDFDataset(where.data)
    run.mkdir(exist_ok=True)
    task.prepare(dataset, run)
    task.open(dataset, run)
    task.build_module()
    return task


def remembered(run: Path) -> LatentStatistics:
    return LatentStatistics.from_json(json.loads((run / "sources.json").read_text())["statistics"])


def test_statistics_of_a_folder_of_latents(small: corridor.Corridor, tmp_path: Path) -> None:
    task, dataset = begun(small, tmp_path), SDFDataset(small.data)
    tokens = np.concatenate(
        [task.samples(dataset).latents.load(i, 16).mean for i in range(len(dataset))]
    ).astype(np.float64)
    np.testing.assert_allclose(remembered(tmp_path).mean, tokens.mean(0), rtol=1e-12)
    np.testing.assert_allclose(remembered(tmp_path).std, tokens.std(0), rtol=1e-12)


@pytest.mark.parametrize("source", ["cached", "on the fly"])
def test_latents_as_they_are(small: corridor.Corridor, tmp_path: Path, source: str) -> None:
    told = ["latents.normalise=false", *(["latents.path=null"] if source == "on the fly" else [])]
    samples = begun(small, tmp_path, *told).samples(SDFDataset(small.data))
    assert remembered(tmp_path).is_plain
    latent = samples.latents.load(3, 16)
    assert torch.equal(samples.fixed(3, 16).x0, torch.from_numpy(latent.mean))


def test_a_structure_stage_is_remembered(small: corridor.Corridor, tmp_path: Path) -> None:
    structure = write_structure(tmp_path / "structure")
    run = write_dit(tmp_path / "dit", small.vae, None, 16)
    (run / "sources.json").unlink()
    begun(small, run, f"structure.run={structure}")
    assert structure_of(run) == structure
    begun(small, run, f"structure.run={structure}")  # a resumed run finds the same one

    def other(module: torch.nn.Module) -> None:
        torch.nn.init.zeros_(next(module.parameters()))

    write_structure(tmp_path / "other", other)
    structure.rename(tmp_path / "away")
    (tmp_path / "other").rename(structure)
    with pytest.raises(UserError, match=r"are not those that .* remembers \(step 5\)"):
        structure_of(run)
    with pytest.raises(UserError, match="began with step 5 of the structure stage"):
        begun(small, run, f"structure.run={structure}")
    with pytest.raises(UserError, match="a run of task ss_vae; give one of structure_dit"):
        begun(small, tmp_path / "new", f"structure.run={small.vae}")


def test_a_run_without_statistics(tmp_path: Path) -> None:
    run = write_dit(tmp_path / "dit", write_run(tmp_path / "vae", corridor.VAE, [32]), None)
    tree = json.loads((run / "sources.json").read_text())
    del tree["statistics"]
    (run / "sources.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="missing or damaged"):
        load_latent_stage(run)

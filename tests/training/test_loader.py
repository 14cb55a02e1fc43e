"""A step's content never depends on the number of ranks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.data.staging.ranges import serving
from tests.training import runs
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.embedded import open_prepared
from threed_gen.training.loader import StepDataset, step_data
from threed_gen.training.run_config import RunConfig, load_run_config
from threed_gen.training.tasks.ss_vae import SSVAETask


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SDFDataset:
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource

    out = tmp_path_factory.mktemp("data") / "shards"
    prepare(ProceduralSource(7, 1), out, [16, 24], workers=0)
    return SDFDataset(out)


def config(*overrides: str) -> RunConfig:
    return load_run_config(runs.TINY, ["data.resolutions=[16,24]", *overrides])


def opened(settings: RunConfig, dataset: SDFDataset, rank: int = 0, ranks: int = 1) -> StepDataset:
    return StepDataset(settings, SSVAETask(settings).samples(dataset), rank, ranks)


@pytest.mark.parametrize("batch", ["train.batch_samples=3", "train.batch_tokens=60"])
def test_the_same_samples_and_resolution_at_any_world_size(dataset: SDFDataset, batch: str) -> None:
    settings = config("train.accumulation=2", "train.batch_samples=null", batch)
    drawn = set()
    for step in range(8):
        seen = []
        for ranks in (1, 2, 3, 5):
            parts = [opened(settings, dataset, rank, ranks)[step] for rank in range(ranks)]
            owned: dict[int, int] = {}
            for part in parts:
                assert len(part.micro) == 2
                assert not set(owned) & set(part.samples)
                owned |= part.samples
                positions = [p for m in part.micro if not m.is_padding for p in m.positions]
                assert sorted(positions) == sorted(part.samples)
            assert sorted(owned) == list(range(parts[0].batch_size))
            seen.append((parts[0].resolution, tuple(sorted(owned.items()))))
            assert len({part.resolution for part in parts}) == 1
        assert len(set(seen)) == 1
        drawn.add(seen[0][0])
    assert drawn == {16, 24}


def test_an_epoch_shows_every_sample_once(dataset: SDFDataset) -> None:
    steps = opened(config(), dataset)
    first = [index for step in range(3) for index in steps[step].samples.values()]
    assert sorted(first) == list(range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_a_step_gives_the_same_step(dataset: SDFDataset, workers: int) -> None:
    settings = config(f"data.workers={workers}", "train.steps=6")
    whole = [data.samples for data in step_data(opened(settings, dataset), 0)]
    rest = [data.samples for data in step_data(opened(settings, dataset), 4)]
    assert len(whole) == 6
    assert rest == whole[4:]


def test_steps_are_the_same_from_staged_shards(dataset: SDFDataset, tmp_path: Path) -> None:
    settings = config("train.steps=40", f"data.stage.dir={tmp_path}")
    plain = [data.samples for data in step_data(opened(config("train.steps=40"), dataset), 0)]
    staged = open_prepared(settings.data, dataset.path)
    seen, deadline = [], time.monotonic() + 20
    for data in step_data(opened(settings, staged), 0):
        seen.append(data.samples)
        while not list(tmp_path.rglob("*.tar")) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == plain
    assert staged.source.counts["staged"] > 0 and not staged.source.counts["staged_damaged"]


def test_a_server_that_is_gone_is_no_bad_sample(dataset: SDFDataset, tmp_path: Path) -> None:
    """No stand-in is trained on: every other sample lies on the same server."""
    overrides = ["data.on_bad_sample=substitute", "data.remote.tries=1", "train.batch_samples=2"]
    settings = config(*overrides, f"data.stage.dir={tmp_path}", "data.stage.ahead=1")
    with serving(dataset.path) as server:
        there = open_prepared(settings.data, server.url)
        server.always = "error"
        data = opened(settings, there)[0]
    assert data.fatal and not data.samples
    assert len(data.problems) == data.batch_size
    assert all("shard-000000.tar: cannot be read" in line for line in data.problems), data.problems

"""Ranks of a node share one copy of the order; what a step holds depends on no node."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.assignment import Placement
from launcher.cluster import Cluster
from launcher.node_arrays import NodeArrays
from tests.training import runs
from threed_gen.data.dataset import SDFDataset
from threed_gen.training import plan_sharing
from threed_gen.training.engine import start_process_group, stop_process_group
from threed_gen.training.loader import StepDataset
from threed_gen.training.plan_sharing import node_arrays, placement_of
from threed_gen.training.run_config import RunConfig, load_run_config
from threed_gen.training.tasks.ss_vae import SSVAETask

ALONE = Cluster(0, 1, 0, 1, 0, 1, "127.0.0.1", 15000, "single")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SDFDataset:
    from threed_gen.data.prepare import prepare
    from threed_gen.data.sources import ProceduralSource

    out = tmp_path_factory.mktemp("data") / "shards"
    prepare(ProceduralSource(7, 1), out, [16], workers=0)
    return SDFDataset(out)


@pytest.fixture
def one_rank() -> Iterator[None]:
    start_process_group(ALONE, 60.0)
    yield
    stop_process_group()


def config(*overrides: str) -> RunConfig:
    return load_run_config(runs.TINY, ["data.resolutions=[16]", *overrides])


def opened(
    settings: RunConfig, dataset: SDFDataset, rank: int, placement: Placement,
    arrays: NodeArrays | None = None,
) -> StepDataset:  # fmt: skip
    samples = SSVAETask(settings).samples(dataset)
    return StepDataset(settings, samples, rank, placement.ranks, placement, arrays)


def test_ranks_of_several_nodes_share_a_step_and_some_go_empty(dataset: SDFDataset) -> None:
    settings = config("train.batch_samples=3", "train.accumulation=2")
    for placement in (Placement.even(1, 4), Placement.even(2, 2), Placement((0, 1, 1, 1))):
        parts = [opened(settings, dataset, rank, placement)[1] for rank in range(4)]
        owned = [position for part in parts for position in part.samples]
        assert sorted(owned) == list(range(parts[0].batch_size))
        assert any(not part.samples for part in parts)
        assert all(len(part.micro) == 2 for part in parts)


def test_a_loaders_process_maps_what_the_rank_has(dataset: SDFDataset, tmp_path: Path) -> None:
    settings, place = config("train.batch_samples=3", "data.bucket=true"), Placement.even(1, 2)
    alone = opened(settings, dataset, 1, place)
    shared = opened(settings, dataset, 1, place, NodeArrays(tmp_path))
    again = pickle.loads(pickle.dumps(shared))  # as a spawned worker gets it
    for step in range(5):
        assert alone[step].samples == shared[step].samples == again[step].samples
    assert type(again.plan.tokens).__name__ == "memmap"


@pytest.mark.usefixtures("one_rank")
def test_the_folder_lives_as_long_as_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert placement_of(ALONE) == Placement((0,))
    with node_arrays(ALONE, plan_sharing.SHARED_FROM - 1) as arrays:
        assert not arrays.shared
    with node_arrays(ALONE, plan_sharing.SHARED_FROM) as arrays:
        assert arrays.shared
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_rank")
def test_no_place_for_temporary_files_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with node_arrays(ALONE, plan_sharing.SHARED_FROM) as arrays:
        assert not arrays.shared
    line = capsys.readouterr().err
    assert "missing" in line and "set TMPDIR" in line and line.count("\n") == 1

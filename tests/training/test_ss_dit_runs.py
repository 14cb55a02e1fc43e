"""Whole runs of the tiny SS-DiT: latents from disk or on the fly, resume, ranks and stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training import corridor, runs

pytestmark = pytest.mark.timeout(400)

TOLERANCE = 1e-5  # relative, fp32, peak learning rate 1e-4


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    return corridor.build(tmp_path_factory.mktemp("corridor"))


@pytest.fixture(scope="module")
def expected(small: corridor.Corridor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of one rank, latents from disk."""
    overrides = [*small.cached, "validation.shapes=2", "train.validate_every=10"]
    return corridor.train(tmp_path_factory.mktemp("python"), overrides)


def losses(run: Path) -> dict[int, float]:
    return {step: float.fromhex(loss) for step, loss in runs.losses(run).items()}


def weights(run: Path, step: int = 20) -> dict[str, Any]:
    return load_file(run / "checkpoints" / f"step_{step:08d}" / "rank_00000.safetensors")


def test_latents_on_the_fly_give_the_same_run(
    small: corridor.Corridor, expected: Path, tmp_path: Path
) -> None:
    """Bit for bit: losses, weights, moments, average."""
    run = corridor.train(tmp_path, small.on_the_fly)
    assert runs.losses(run) == runs.losses(expected)
    own, other = weights(run), weights(expected)
    assert own.keys() == other.keys() and all(own[name].equal(other[name]) for name in own)
    assert json.loads((run / "sources.json").read_text())["statistics"]["tokens"] > 0


def test_a_killed_run_goes_on_exactly(expected: Path, tmp_path: Path) -> None:
    """From the checkpoint of step 10, with latents, views, average and validation."""
    run = tmp_path / "run"
    shutil.copytree(expected, run)
    (run / "finished.json").unlink()
    for step in (15, 20):
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    code = runs.finish("python", 1, ["--resume", str(run)], tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    assert runs.losses(run) == runs.losses(expected)
    own, other = weights(run), weights(expected)
    assert any(name.startswith("average/conditioner.") for name in own)
    assert all(own[name].equal(other[name]) for name in other)
    assert (run / "validation.jsonl").read_text() == (expected / "validation.jsonl").read_text()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("ranks", "stage"),
    [(2, 2)] + [pytest.param(n, s, marks=pytest.mark.long)
                for n, s in ((1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 3))],
)  # fmt: skip
def test_ranks_and_stages_agree(
    small: corridor.Corridor, expected: Path, tmp_path: Path, ranks: int, stage: int
) -> None:
    """One selection block per sample, so top-k is at least the number of blocks."""
    overrides = [*small.cached, *runs.stage_overrides(stage)]
    found = losses(corridor.train(tmp_path, overrides, "torchrun", ranks))
    truth = losses(expected)
    assert sorted(found) == sorted(truth) == list(range(1, 21))
    worst = max(abs(found[step] / truth[step] - 1) for step in truth)
    assert worst <= TOLERANCE, f"losses differ by {worst:.2e}"


def test_validation_and_its_pictures(expected: Path) -> None:
    records = [
        json.loads(line) for line in (expected / "validation.jsonl").read_text().splitlines()
    ]
    assert [record["step"] for record in records] == [10, 20]
    for shape in records[-1]["shapes"]:
        assert {"loss", "relative_l2", "iou", "roundtrip_iou"} <= set(shape)
    assert (expected / "previews" / "step_00000020.png").is_file()
    record = runs.records(expected)[-1]
    pairs = record["time_bins"].values()  # type: ignore[attr-defined]
    assert sum(samples for _, samples in pairs) == 3
    mean = sum(loss * samples for loss, samples in pairs) / 3
    assert mean == pytest.approx(record["loss"], rel=1e-6)

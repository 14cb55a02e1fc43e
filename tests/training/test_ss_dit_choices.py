"""Runs whose attention really selects: backends, ranks and ZeRO stages choose the same blocks.

Thin rings at 128³: a latent grid of 16³, about 400 tokens and at least six selection blocks in each
sample, of which two are read. Two blocks whose scores differ by less than rounding does could be
chosen either way; with this seed no two scores that matter come closer than 2e-6 in all 20 steps,
where backends differ by 5e-8. The choices are compared before the losses.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from trimesh.transformations import rotation_matrix

from tests.training import corridor, runs
from threed_gen.data.sources import FolderSource

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("choices_train.py")
TOLERANCE = 1e-5
TOP_2 = ["data.resolutions=[128]", "model.top_k=2", "model.cell=4", "seed=2"]
Choices = dict[tuple[int, int, int], str]
Result = tuple[Choices, dict[int, float]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    folder = tmp_path_factory.mktemp("corridor")
    return corridor.build(folder, 128, FolderSource(rings(folder / "meshes")))


def rings(folder: Path) -> Path:
    """Six rings that pass through six octants of the unit cube each, as files."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    upright = [1.0, -1.0, 0.0]
    for number in range(6):
        ring = trimesh.creation.torus(
            1.0, 0.05 + 0.02 * draw.random(), major_sections=64, minor_sections=16
        )
        axis = draw.normal(size=3)
        tilt = np.arccos(1 / np.sqrt(3)) + 0.2 * draw.normal()
        ring.apply_transform(rotation_matrix(tilt, upright))
        ring.apply_transform(rotation_matrix(0.3 * draw.random(), axis))
        ring.export(folder / f"ring_{number}.ply")
    return folder


@pytest.fixture(scope="module")
def expected(large: corridor.Corridor, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(tmp_path_factory.mktemp("cpu"), large, ["model.backend=cpu"])


def run(folder: Path, where: corridor.Corridor, overrides: list[str], ranks: int = 1) -> Result:
    """What was chosen by (step, layer, place in the batch), and the losses."""
    directory = folder / "run"
    arguments = [str(folder / "choices"), "--config", str(corridor.TINY_DIT), "--out",
                 str(directory), *where.cached, *TOP_2, *overrides]  # fmt: skip
    launcher = "torchrun" if ranks > 1 else "python"
    code = runs.finish(launcher, ranks, arguments, folder / "log", timeout=600, script=SCRIPT)
    assert code == 0, (folder / "log").read_text()[-3000:]
    chosen: Choices = {}
    for path in (folder / "choices").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            assert one["blocks"] >= 6, "the sample is too small to have a choice"
            chosen[one["step"], one["layer"], one["position"]] = one["chosen"]
    losses = {step: float.fromhex(loss) for step, loss in runs.losses(directory).items()}
    return chosen, losses


def compare(
    found: Result,
    truth: Result,
    tolerance: float,
) -> None:
    steps, layers = len(found[1]), 2  # one layer has shift 0, the other shift 4
    assert len(found[0]) == steps * layers * 3
    differing = [key for key, value in found[0].items() if truth[0][key] != value]
    assert not differing, f"other blocks were chosen at (step, layer, sample) {differing[:5]}"
    worst = max(abs(loss / truth[1][step] - 1) for step, loss in found[1].items())
    assert worst <= tolerance, f"losses differ by {worst:.2e}"


def test_the_definition_and_the_cpu_path(
    large: corridor.Corridor, expected: Result, tmp_path: Path
) -> None:
    found = run(tmp_path, large, ["model.backend=reference"])
    assert len(found[1]) == 20
    compare(found, expected, TOLERANCE)


def test_one_step_of_the_triton_kernels(
    large: corridor.Corridor, expected: Result, tmp_path: Path
) -> None:
    """In Triton's interpreter, where there is no GPU."""
    overrides = ["model.backend=triton", "train.steps=1", "train.schedule=constant"]
    found = run(tmp_path, large, overrides)
    compare(found, expected, 1e-4)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3)])
def test_ranks_and_stages(
    large: corridor.Corridor, expected: Result, tmp_path: Path,
    ranks: int, stage: int,
) -> None:  # fmt: skip
    found = run(tmp_path, large, ["model.backend=cpu", *runs.stage_overrides(stage)], ranks)
    assert len(found[1]) == 20
    compare(found, expected, TOLERANCE)

"""The same losses from every launcher, number of ranks and ZeRO stage.

A global batch of three samples, so that two ranks hold two and one: a trainer that averaged over
ranks instead of samples would differ at the first step.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

STEPS = 20
TOLERANCE = 1e-5  # relative, fp32, peak learning rate 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six procedural shapes at 16³, prepared once for all runs of this file."""
    return runs.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of plain `python`, one rank, ZeRO 0."""
    return run(tmp_path_factory.mktemp("python"), data, "python", 1, 0)


def run(folder: Path, data: Path, launcher: str, ranks: int, stage: int) -> dict[int, float]:
    arguments = ["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={data}",
                   *runs.stage_overrides(stage), f"train.steps={STEPS}"]  # fmt: skip
    code = runs.finish(launcher, ranks, arguments, folder / "log")
    assert code == 0, (folder / "log").read_text()[-3000:]
    return {step: float.fromhex(loss) for step, loss in runs.losses(folder / "run").items()}


def compare(found: dict[int, float], expected: dict[int, float]) -> None:
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    worst = max(abs(found[step] / expected[step] - 1) for step in expected)
    assert worst <= TOLERANCE, f"losses differ by {worst:.2e}"


QUICK = [
    pytest.param("torchrun", 2, 2, marks=pytest.mark.long),
    ("deepspeed", 2, 3),
    ("mpirun", 2, 1),
]
ALL = [
    (launcher, ranks, stage)
    for launcher in ("deepspeed", "torchrun", "mpirun")
    for ranks in (1, 2)
    for stage in (0, 1, 2, 3)
]


@pytest.mark.parametrize(("launcher", "ranks", "stage"), QUICK)
def test_three_launchers_agree(
    tmp_path: Path, data: Path, expected: dict[int, float], launcher: str, ranks: int, stage: int
) -> None:
    compare(run(tmp_path, data, launcher, ranks, stage), expected)


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "ranks", "stage"), [c for c in ALL if c not in QUICK])
def test_every_launcher_rank_count_and_stage(
    tmp_path: Path, data: Path, expected: dict[int, float], launcher: str, ranks: int, stage: int
) -> None:
    compare(run(tmp_path, data, launcher, ranks, stage), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "stage"),
    [("zero0", 0), ("zero1", 1), ("zero2", 2), ("zero3", 3), ("zero2_offload", 2),
     ("zero3_offload", 3)],
)  # fmt: skip
def test_the_deepspeed_files_change_nothing(
    tmp_path: Path, data: Path, expected: dict[int, float], name: str, stage: int
) -> None:
    settings = runs.ROOT / "configs" / "deepspeed" / f"{name}.json"
    arguments = ["--config", str(runs.TINY), "--out", str(tmp_path / "run"), f"data.path={data}",
                 f"train.zero_stage={stage}", f"train.deepspeed={settings}",
                 f"train.steps={STEPS}"]  # fmt: skip
    assert runs.finish("python", 1, arguments, tmp_path / "log") == 0
    compare({s: float.fromhex(v) for s, v in runs.losses(tmp_path / "run").items()}, expected)

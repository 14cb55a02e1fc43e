"""The same losses through every door, on one rank and on several over one to four nodes.

Global batches of the same six samples; plain `python` on one rank is what all are held against.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.slurm import doors
from tests.slurm.jobs import ended
from tests.slurm.lab import SlurmLab
from tests.training import corridor, runs

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(300)]

STEPS = 40
NOBODY = 65534
TOLERANCE = 1e-5  # relative, fp32, peak learning rate 1e-4

SHORT: list[tuple[str, doors.Layout]] = [
    ("srun", (1, 1, 1, 1)),
    ("sbatch", (1, 1)),
    ("deepspeed", (1, 2)),
    ("openmpi", (1, 1)),
    ("mpirun", (2, 1)),
    ("torchrun", (1, 1)),
]
# With SHORT every door is taken by 1, 2, 3 and 4 ranks and over 1 to 4 nodes.
LAYOUTS: dict[str, list[doors.Layout]] = {
    "srun": [(1,), (2,), (1, 2), (1, 1, 1), (2, 2)],
    "sbatch": [(1,), (1, 1, 1), (2, 2), (1, 1, 1, 1)],
    "deepspeed": [(1,), (1, 1), (1, 1, 1), (4,), (1, 1, 1, 1)],
    "openmpi": [(1,), (1, 2), (1, 1, 1), (2, 2), (1, 1, 1, 1)],
    "mpirun": [(1,), (2,), (1, 1, 1), (2, 2), (1, 1, 1, 1)],
    "torchrun": [(1,), (3,), (1, 1, 1), (2, 2), (1, 1, 1, 1)],
    "slurm": [(2,)],  # deepspeed leaves the choice of nodes to srun
}
MATRIX = [(door, layout) for door, layouts in LAYOUTS.items() for layout in layouts]


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Plain `python`, outside of the cluster."""
    folder = tmp_path_factory.mktemp("python")
    assert runs.finish("python", 1, ss_vae(folder, data), folder / "log") == 0, doors.said(folder)
    return losses(folder / "run")


def ss_vae(folder: Path, data: Path) -> list[str]:
    """A new run in FOLDER/run."""
    return ["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={data}",
            f"train.batch_samples={runs.SAMPLES}", f"train.steps={STEPS}",
            doors.PATIENT]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    return {step: float.fromhex(loss) for step, loss in runs.losses(run).items()}


def train(
    lab: SlurmLab, door: str, folder: Path, layout: doors.Layout, training: list[str],
    script: str = "ss_vae",
) -> Path:  # fmt: skip
    """Run to its end through a door; the run directory."""
    if door != "sbatch":
        return doors.finish(lab, door, folder, layout, training)
    words = [word for word in training if word not in ("--config", "--out")]
    job = doors.submit(lab, folder, layout, script, *words)
    assert ended(lab, job) == "COMPLETED", doors.said(folder)
    return folder / "run"


def compare(run: Path, truth: dict[int, float]) -> None:
    found = losses(run)
    assert list(found) == list(truth) and len(truth) > 0
    worst = max(abs(found[step] / truth[step] - 1) for step in truth)
    assert worst <= TOLERANCE, f"losses differ by {worst:.2e}"


def check(
    lab: SlurmLab, folder: Path, data: Path, door: str, layout: doors.Layout,
    truth: dict[int, float],
) -> None:  # fmt: skip
    assert len(truth) == STEPS
    run = train(lab, door, folder, layout, ss_vae(folder, data))
    compare(run, truth)
    where = [node for node, ranks in enumerate(layout, start=1) for _ in range(ranks)]
    for rank, node in enumerate(where):
        log = (run / "logs" / f"rank_{rank:05d}.log").read_text()
        assert log.startswith(f"─── rank {rank} of {len(where)} on n{node}, process ")
    assert not (run / "logs" / f"rank_{len(where):05d}.log").exists()


@pytest.mark.parametrize(
    ("door", "layout"),
    [*SHORT, *(pytest.param(*case, marks=pytest.mark.matrix) for case in MATRIX)],
)
def test_every_door_gives_the_same_losses(
    lab: SlurmLab, tmp_path: Path, data: Path, expected: dict[int, float], door: str,
    layout: doors.Layout,
) -> None:  # fmt: skip
    check(lab, tmp_path, data, door, layout, expected)


def test_an_unprivileged_user(lab: SlurmLab, data: Path, expected: dict[int, float]) -> None:
    """Submits, trains and owns what comes out. Pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(data, folder / "data")
        folder.chmod(0o755)
        os.chown(folder, NOBODY, NOBODY)
        nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        place = [f"HOME={folder}", f"TMPDIR={folder}"]
        words = [word for word in ss_vae(folder, folder / "data") if word[:2] != "--"]
        job = doors.submit(
            lab, folder, (1, 1), "ss_vae", *words, before=[*nobody, "env", *place]
        )  # fmt: skip
        assert ended(lab, job) == "COMPLETED", doors.said(folder)
        compare(folder / "run", expected)
        owners = {path.stat().st_uid for path in (folder / "run").rglob("*")}
        assert owners == {NOBODY}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corridor.Corridor:
    """Shapes, pictures, an SS-VAE and its latents."""
    return corridor.build(tmp_path_factory.mktemp("corridor"))


@pytest.fixture(scope="module")
def expected_dit(
    small: corridor.Corridor, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    folder = tmp_path_factory.mktemp("python")
    return losses(corridor.train(folder, ss_dit(small)))


def ss_dit(small: corridor.Corridor) -> list[str]:
    size = [f"train.steps={STEPS}", f"train.batch_samples={runs.SAMPLES}"]
    return [*small.cached, *size, doors.PATIENT]


@pytest.mark.parametrize(
    ("door", "layout"),
    [
        ("sbatch", (1, 1)),
        *(
            pytest.param(door, layout, marks=pytest.mark.matrix)
            for door, layout in [
                ("deepspeed", (1, 1)), ("sbatch", (2, 2)), ("deepspeed", (1, 1, 1)),
                ("deepspeed", (1, 1, 1, 1)),
            ]
        ),
    ],
)  # fmt: skip
def test_the_ss_dit(
    lab: SlurmLab, tmp_path: Path, small: corridor.Corridor, expected_dit: dict[int, float],
    door: str, layout: doors.Layout,
) -> None:  # fmt: skip
    training = ["--config", str(corridor.TINY_DIT), "--out", str(tmp_path / "run"), *ss_dit(small)]
    compare(train(lab, door, tmp_path, layout, training, "ss_dit"), expected_dit)

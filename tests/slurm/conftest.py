"""One Slurm for all tests of this folder, at rest again before each of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm.faults import Faults
from tests.slurm.lab import SlurmLab
from tests.training import runs


@pytest.fixture(scope="session")
def started_lab() -> Iterator[SlurmLab]:
    with SlurmLab(nodes=4, gpus=8) as lab:
        yield lab


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all trainings of this folder train on; nobody writes into it."""
    return runs.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture
def lab(started_lab: SlurmLab) -> Iterator[SlurmLab]:
    """Four nodes, n1 to n4, with 16 cores and 8 GPUs each, idle. No test may leave a process."""
    started_lab.clear()
    yield started_lab
    started_lab.run(["scancel", "--full", "--user=root"], check=False)
    deadline = time.monotonic() + 10
    while left := started_lab.strangers():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture
def faults(lab: SlurmLab, tmp_path: Path) -> Iterator[Faults]:
    (tmp_path / "faults").mkdir()
    with ExitStack() as undo:
        yield Faults(lab, tmp_path / "faults", undo)

"""Doors without a preflight: ranks that differ, and ranks too many, stop before the first step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slurm import doors
from tests.slurm.faults import Faults
from tests.slurm.lab import SlurmLab
from tests.training import runs

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(180)]

HASH = "[0-9a-f]{12}"


def refused(
    lab: SlurmLab, folder: Path, data: Path, door: str, layout: doors.Layout, *overrides: str
) -> str:
    """A training that does not come to its first step; the one line that rank 0 says."""
    training = ["--config", str(runs.TINY), "--out", str(folder / "run"), f"data.path={data}",
                f"train.batch_samples={runs.SAMPLES}", doors.PATIENT, *overrides]  # fmt: skip
    for process in doors.start(lab, door, folder, layout, training):
        assert process.wait(doors.SECONDS) != 0
    assert not runs.records(folder / "run")
    said = (folder / "log").read_text().splitlines()
    (line,) = (line for line in said if "threed-gen: error: " in line)
    return line.partition("threed-gen: error: ")[2]


def test_other_data_on_a_node(lab: SlurmLab, tmp_path: Path, data: Path, faults: Faults) -> None:
    (tmp_path / "other").mkdir()
    other = runs.prepared(tmp_path / "other", samples=runs.SAMPLES - 1)
    faults.other("n2", data, other)
    line = refused(lab, tmp_path, data, "srun", (1, 1))
    assert re.fullmatch(
        rf"data of rank 1 on n2 is {HASH} \(5 samples\), that of rank 0 on n1 {HASH} "
        r"\(6 samples\): copy the same prepared data there",
        line,
    ), line


def test_another_code_on_a_node(lab: SlurmLab, tmp_path: Path, data: Path, faults: Faults) -> None:
    source = runs.ROOT / "threed_gen" / "sparse" / "cells.py"
    faults.instead("n2", source, source.read_text() + "# not committed\n")
    line = refused(lab, tmp_path, data, "mpirun", (1, 2))
    assert re.fullmatch(
        rf"code of rank 1 on n2 is {HASH}, that of rank 0 on n1 {HASH}: bring its copy of "
        rf"{runs.ROOT} up to date",
        line,
    ), line
    assert not (tmp_path / "run").exists(), "something was begun"


def test_fewer_samples_than_ranks(lab: SlurmLab, tmp_path: Path, data: Path) -> None:
    line = refused(lab, tmp_path, data, "deepspeed", (1, 2), "train.batch_samples=2")
    assert line == (
        "train.batch_samples is 2, but there are 3 ranks on 2 nodes, and each needs at least one "
        "sample; set train.batch_samples=3 or more, or take fewer ranks"
    )
    assert not (tmp_path / "run").exists(), "something was begun"

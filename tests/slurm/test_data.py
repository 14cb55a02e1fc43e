"""`prepare` and `encode` on four nodes: array tasks and MPI ranks give the bytes of one process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.data.folders import products
from tests.data.latents.sets import products as latents_of
from tests.slurm.lab import SlurmLab
from tests.training import vae_runs
from threed_gen.models.ss_vae import SSVAEConfig

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "threed_gen.cli"]
MPIRUN = Path(sys.executable).with_name("mpirun")
SHAPES = 48
SECONDS = 60.0
TINY = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=3, encoder_blocks=1,
    decoder_blocks=1, heads=2, norm_groups=4, mean_head_init="xavier", initial_logvar=-4.0,
)  # fmt: skip


def preparing(out: Path) -> list[str]:
    return [f"procedural:{SHAPES}", str(out), "--resolution", "32", "--no-report"]


@pytest.fixture(scope="module")
def one(started_lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process prepares."""
    out = tmp_path_factory.mktemp("one") / "data"
    started_lab.run([*CLI, "prepare", *preparing(out)], cwd=ROOT)
    return out


def submitted(lab: SlurmLab, log: Path, script: str, words: list[str], array: str) -> str:
    """Submit one of the scripts in slurm/ as an array; the job's number."""
    options = [f"--array={array}", "--cpus-per-task=1", f"--output={log}-%a"]
    done = lab.run(
        ["sbatch", "--parsable", *options, f"slurm/{script}.sbatch", *words], cwd=ROOT
    )  # fmt: skip
    return done.stdout.strip()


def ended(lab: SlurmLab, job: str) -> list[str]:
    """Wait for all tasks of an array; their states in order."""
    deadline = time.monotonic() + SECONDS
    while lab.run(["squeue", "--noheader", f"--jobs={job}"], check=False).stdout.strip():
        assert time.monotonic() < deadline, lab.run(["squeue"]).stdout
        time.sleep(0.1)
    lines = lab.run(["scontrol", "--oneliner", "show", "job", job]).stdout.splitlines()
    found = {line.split("ArrayTaskId=")[1].split()[0]: line for line in lines}
    return [found[task].split("JobState=")[1].split()[0] for task in sorted(found)]


def mpirun(lab: SlurmLab, folder: Path, words: list[str]) -> str:
    """Four ranks, one on each node, over ssh; what they print."""
    hosts = folder / "hosts"
    hosts.write_text("".join(f"n{number} slots=1\n" for number in range(1, 5)))
    as_root = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    start = [str(MPIRUN), "-n", "4", "--hostfile", str(hosts), "--bind-to", "none"]
    done = lab.run(
        [*as_root, *start, *CLI, *words, "--mpi"], cwd=ROOT, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_an_array_prepares_what_one_process_does(lab: SlurmLab, one: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    job = submitted(lab, tmp_path / "log", "prepare", preparing(out), "0-3")
    states = ended(lab, job)
    logs = [path.read_text() for path in sorted(tmp_path.glob("log-*"))]
    assert states == ["COMPLETED"] * 4, logs
    assert sum("of other ranks are open" in log for log in logs) >= 1, logs
    assert len(list((out / "work").glob("ledger.*-of-4.jsonl"))) == 4
    assert products(out) == products(one)


def test_mpi_ranks_prepare_what_one_process_does(lab: SlurmLab, one: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert f"{SHAPES} samples" in mpirun(lab, tmp_path, ["prepare", *preparing(out)])
    assert products(out) == products(one)


def test_a_task_that_is_killed_costs_its_own_part_only(
    lab: SlurmLab, one: Path, tmp_path: Path
) -> None:
    """A second submission does what is missing, and nothing else."""
    out = tmp_path / "data"
    job = submitted(lab, tmp_path / "log", "prepare", preparing(out), "0-3")
    ledger = out / "work" / "ledger.2-of-4.jsonl"
    deadline = time.monotonic() + SECONDS
    while not (ledger.exists() and ledger.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lab.run(["scancel", "--full", "--signal=KILL", f"{job}_2"])
    states = ended(lab, job)
    assert states.count("COMPLETED") == 3 and states[2] in ("FAILED", "CANCELLED"), states
    assert not (out / "index.jsonl").exists()
    kept = {path.name: path.read_bytes() for path in (out / "work").glob("ledger.*.jsonl")}
    job = submitted(lab, tmp_path / "again", "prepare", preparing(out), "2")
    assert ended(lab, job) == ["COMPLETED"]
    log = (tmp_path / "again-2").read_text()
    done = sum(content.count(b"\n") for content in kept.values())
    assert f"({SHAPES - done} built now, {done} were there" in log
    assert 0 < done < SHAPES
    for name, content in kept.items():
        assert (out / "work" / name).read_bytes().startswith(content)
    assert products(out) == products(one)


def test_latents_by_an_array_and_by_mpi_ranks(lab: SlurmLab, one: Path, tmp_path: Path) -> None:
    """Shards, index and statistics."""
    run = vae_runs.write_run(tmp_path / "vae", TINY, [32])

    def words(out: str) -> list[str]:
        return [str(run), str(one), "--out", str(tmp_path / out)]

    lab.run([*CLI, "encode", *words("alone")], cwd=ROOT)
    whole = latents_of(tmp_path / "alone")
    assert "latents.jsonl" in whole
    job = submitted(lab, tmp_path / "log", "encode", words("array"), "0-2")
    assert ended(lab, job) == ["COMPLETED"] * 3
    assert latents_of(tmp_path / "array") == whole
    mpirun(lab, tmp_path, ["encode", *words("mpi")])
    assert latents_of(tmp_path / "mpi") == whole

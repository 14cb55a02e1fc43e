"""Every way to start a training on the nodes of the test cluster, and the ranks it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.slurm.jobs import SECONDS
from tests.slurm.lab import SlurmLab
from tests.training import runs

BIN = runs.BIN
TRAIN = "threed_gen/train.py"
Layout = tuple[int, ...]  # ranks on n1, n2 …
PORTS = iter(range(14_000, 15_000))  # inside the nodes' own network, each used once
# Ranks that share two cores with others come one after the other.
PATIENT = "train.timeout_seconds=300"


def hostfile(folder: Path, layout: Layout) -> Path:
    path = folder / "hosts"
    lines = [f"n{node} slots={ranks}\n" for node, ranks in enumerate(layout, start=1)]
    path.write_text("".join(lines))
    return path


def hostlist(folder: Path, layout: Layout) -> Path:
    """One line for each rank, for srun."""
    path = folder / "places"
    path.write_text("".join(f"n{n}\n" * ranks for n, ranks in enumerate(layout, start=1)))
    return path


def commands(door: str, folder: Path, layout: Layout, training: Sequence[str]) -> list[list[str]]:
    """What is typed, on n1 (and for torchrun on each node)."""
    world, port, python = sum(layout), str(next(PORTS)), sys.executable
    train = [TRAIN, *training]
    if door == "python":
        return [[python, *train]]
    if door == "srun":
        where = ["env", f"SLURM_HOSTFILE={hostlist(folder, layout)}"]  # else srun fills n1 first
        return [[*where, "srun", "--distribution=arbitrary", f"--ntasks={world}", python, *train]]
    if door == "mpirun":
        place = ["--hostfile", str(hostfile(folder, layout)), "--map-by", "slot"]
        return [[str(BIN / "mpirun"), "-n", str(world), *place, "--bind-to", "none", python,
                 *train]]  # fmt: skip
    if door == "torchrun":
        meet = [f"--nnodes={len(layout)}", "--master-addr=n1", f"--master-port={port}"]
        return [
            [str(BIN / "torchrun"), *meet, f"--node-rank={node}", f"--nproc-per-node={n}", *train]
            for node, n in enumerate(layout)
        ]
    head = [str(BIN / "deepspeed"), f"--hostfile={hostfile(folder, layout)}"]
    if door == "openmpi":
        return [[*head, "--launcher=openmpi", *train]]
    if door == "slurm":
        return [[*head, "--force_multi", "--launcher=slurm", *train]]
    assert door == "deepspeed", door
    return [[*head, "--force_multi", "--master_addr=n1", f"--master_port={port}", *train]]


def start(
    lab: SlurmLab, door: str, folder: Path, layout: Layout, training: Sequence[str]
) -> list[subprocess.Popen[bytes]]:
    """Start it; output goes to FOLDER/log."""
    return [
        start_on(lab, f"n{node}", folder, words)
        for node, words in enumerate(commands(door, folder, layout, training), start=1)
    ]


def start_on(
    lab: SlurmLab, node: str, folder: Path, words: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Any command on a node, as from a shell with the environment of the repository activated."""
    activated = ["env", f"PATH={BIN}:{lab.path()}"]  # deepspeed looks for mpirun and ompi_info
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*lab.inside(node), *activated, *words], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=runs.environment(), cwd=runs.ROOT,
        )  # fmt: skip


def finish(lab: SlurmLab, door: str, folder: Path, layout: Layout, training: Sequence[str]) -> Path:
    """Run to the end, which must be a good one; the run directory is FOLDER/run."""
    processes = start(lab, door, folder, layout, training)
    for process in processes:
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, f"{door} {layout}: code {code}\n{said(folder)}"
    assert (folder / "run" / "finished.json").is_file()
    return folder / "run"


def said(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-3000:]


def submit(
    lab: SlurmLab, folder: Path, layout: Layout, script: str, *arguments: str,
    before: Sequence[str] = (),
) -> str:  # fmt: skip
    """`sbatch slurm/SCRIPT.sbatch`; the job's number. Its output goes to FOLDER/log.

    Args:
        before: words before `sbatch`, to be somebody else.
    """
    size = [f"--nodes={len(layout)}", f"--ntasks-per-node={layout[0]}"]
    done = lab.run(
        [*before, "sbatch", "--parsable", *size, "--gpus-per-node=1", "--cpus-per-task=1",
         f"--output={folder}/log", f"slurm/{script}.sbatch", *arguments],
        cwd=runs.ROOT,
    )  # fmt: skip
    return done.stdout.strip()


def ranks_of(lab: SlurmLab, run: Path) -> dict[int, int]:
    """Processes of the lab that are ranks of `run`, by rank, as this machine numbers them."""
    names = ("SLURM_PROCID=", "OMPI_COMM_WORLD_RANK=", "RANK=")
    found: dict[int, int] = {}
    for pid in lab.called(TRAIN.rsplit("/", 1)[1], str(run)):
        try:
            environ = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        rank = next((e.split("=")[1] for name in names for e in environ if e.startswith(name)), "0")
        found.setdefault(int(rank), pid)  # workers of its data loader come after it
    return found


def wait_for_step(lab: SlurmLab, folder: Path, step: int, ranks: int) -> dict[int, int]:
    """Wait until FOLDER/run has journalled `step`; returns the ranks."""
    deadline = time.monotonic() + SECONDS
    while len(runs.records(folder / "run")) < step:
        assert time.monotonic() < deadline, f"never came to step {step}\n{said(folder)}"
        assert not (folder / "run" / "finished.json").exists(), "ended too early to be stopped"
        time.sleep(0.01)
    found = ranks_of(lab, folder / "run")
    assert sorted(found) == list(range(ranks)), found
    return found


def kill(pid: int, how: int = 9) -> None:
    os.kill(pid, how)

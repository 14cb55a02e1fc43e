"""A real Slurm of four nodes: ranks know who they are, jobs are submitted, refused and requeued."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.command import Master, Ranks, Training, deepspeed, mpirun
from launcher.leftovers import MARK
from launcher.site import Site
from tests.slurm.jobs import SECONDS, ended, script
from tests.slurm.lab import SlurmLab

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(120)]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHO = [sys.executable, "-S", str(HERE / "who.py")]  # nothing but the standard library


def notes(folder: Path) -> list[dict[str, Any]]:
    """What every rank has noted, by rank."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda note: note["rank"])


def places(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Where each rank is."""
    return [(n["rank"], n["local_rank"], n["local_size"], n["node"], n["host"]) for n in found]


def test_srun_on_four_nodes(lab: SlurmLab, tmp_path: Path) -> None:
    lab.run(["srun", "-N4", "--ntasks-per-node=2", "--gpus-per-node=8", *WHO, str(tmp_path / "a")])
    found = notes(tmp_path / "a")
    assert [n["rank"] for n in found] == list(range(8))
    assert [n["local_rank"] for n in found] == [0, 1] * 4
    assert [n["node"] for n in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [n["host"] for n in found] == ["n1", "n1", "n2", "n2", "n3", "n3", "n4", "n4"]
    assert {(n["world_size"], n["local_size"], n["nodes"], n["source"]) for n in found} == {
        (8, 2, 4, "slurm")
    }
    assert {n["gpus"] for n in found} == {"0,1,2,3,4,5,6,7"}
    assert {(n["master_addr"], n["address"]) for n in found} == {("n1", "10.77.0.11")}
    assert len({n["master_port"] for n in found}) == 1


def test_a_job_of_an_unprivileged_user(lab: SlurmLab) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = lab.run([*nobody, "srun", "-N2", "--chdir=/", "id", "--user"])
    assert done.stdout.split() == ["65534", "65534"]


def test_steps_of_a_job_on_some_of_its_nodes(lab: SlurmLab, tmp_path: Path) -> None:
    job = script(
        tmp_path / "job",
        "set -e",
        f"srun --nodes=2 --ntasks=4 --nodelist=n3,n4 {shlex.join(WHO)} {tmp_path}/part",
        f"srun --nodes=4 --ntasks=5 {shlex.join(WHO)} {tmp_path}/uneven",
        f"{shlex.join(WHO)} {tmp_path}/shell",
    )
    number = lab.run(
        ["sbatch", "--parsable", "-N4", "--ntasks-per-node=2", f"--output={tmp_path}/log", job]
    ).stdout.strip()
    assert ended(lab, number) == "COMPLETED", (tmp_path / "log").read_text()
    part, uneven, shell = (notes(tmp_path / name) for name in ("part", "uneven", "shell"))
    assert {(n["master_addr"], n["nodes"], n["world_size"]) for n in part} == {("n3", 2, 4)}
    assert [n["host"] for n in part] == ["n3", "n3", "n4", "n4"]
    sizes = [n["local_size"] for n in uneven]
    by_host = [sum(other["host"] == n["host"] for other in uneven) for n in uneven]
    assert sizes == by_host and len(set(sizes)) == 2
    assert {n["master_port"] for n in part}.isdisjoint({n["master_port"] for n in uneven})
    assert [(n["world_size"], n["source"]) for n in shell] == [(1, "single")]


def test_torchrun_on_every_node_of_a_job(lab: SlurmLab, tmp_path: Path) -> None:
    """Its own ranks count, not srun's: one process of srun on each node started it."""
    told = "RANK=$((SLURM_NODEID * 2 + l)) WORLD_SIZE=8 LOCAL_RANK=$l LOCAL_WORLD_SIZE=2"
    line = (
        f"for l in 0 1; do {told} MASTER_ADDR=n1 MASTER_PORT=15000 {shlex.join(WHO)} {tmp_path}/t"
    )
    lab.run(["srun", "-N4", "--ntasks-per-node=1", "bash", "-c", f"{line}; done"])
    found = notes(tmp_path / "t")
    assert [n["rank"] for n in found] == list(range(8))
    assert {n["source"] for n in found} == {"torch"}


def test_mpirun_over_ssh_on_uneven_nodes(lab: SlurmLab, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("n1 slots=1\nn2 slots=2\nn3 slots=1\n")
    train = Training(sys.executable, str(HERE / "who.py"), (str(tmp_path / "m"),))
    words = mpirun(train, Ranks(1, 4), tmp_path / "hosts", Site())
    as_root = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    done = lab.run([*as_root, *words], check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = notes(tmp_path / "m")
    assert places(found) == [
        (0, 0, 1, 0, "n1"), (1, 0, 2, 1, "n2"), (2, 1, 2, 1, "n2"), (3, 0, 1, 2, "n3"),
    ]  # fmt: skip
    assert {(n["master_addr"], n["nodes"], n["source"]) for n in found} == {
        ("10.77.0.11", 3, "mpi")
    }
    assert len({n["master_port"] for n in found}) == 1


def test_deepspeed_over_ssh(lab: SlurmLab, tmp_path: Path) -> None:
    """Started as `launch` starts it; the variables of the site reach ranks on other nodes."""
    (tmp_path / "hosts").write_text("n1 slots=2\nn2 slots=2\n")
    (tmp_path / "environment").write_text("WHO_SAYS=a b\n")
    train = Training(sys.executable, str(HERE / "who.py"), (str(tmp_path / "d"),))
    words = deepspeed(train, Ranks(2, 2), tmp_path / "hosts", Master("n1", 15_123))
    environ = ["env", f"DS_ENV_FILE={tmp_path / 'environment'}", "DS_ACCELERATOR=cpu"]
    done = lab.run([*environ, *words], check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = notes(tmp_path / "d")
    assert places(found) == [
        (0, 0, 2, 0, "n1"), (1, 1, 2, 0, "n1"), (2, 0, 2, 1, "n2"), (3, 1, 2, 1, "n2"),
    ]  # fmt: skip
    assert {(n["master_addr"], n["master_port"], n["source"]) for n in found} == {
        ("n1", 15_123, "torch")
    }
    assert {n["said"] for n in found} == {"a b"}


def test_512_ranks_on_64_nodes(tmp_path: Path) -> None:
    with SlurmLab(nodes=64, gpus=8, cpus=8) as lab:
        start = time.monotonic()
        lab.run(["srun", "-N64", "--ntasks-per-node=8", "--gpus-per-node=8", *WHO, str(tmp_path)])
        assert time.monotonic() - start < 60
    found = notes(tmp_path)
    assert [n["rank"] for n in found] == list(range(512))
    assert all(n["local_rank"] == n["rank"] % 8 and n["node"] == n["rank"] // 8 for n in found)
    assert all(n["host"] == f"n{n['rank'] // 8 + 1}" for n in found)
    assert {n["gpus"] for n in found} == {"0,1,2,3,4,5,6,7"}
    assert len({(n["master_addr"], n["master_port"]) for n in found}) == 1


def test_a_requeued_job_has_another_port(lab: SlurmLab, tmp_path: Path) -> None:
    job = script(
        tmp_path / "job",
        "start=${SLURM_RESTART_COUNT:-0}",
        f"srun {shlex.join(WHO)} {tmp_path}/start$start",
        '[ "$start" = 0 ] && sleep 60',
        "exit 0",
    )
    number = lab.run(
        ["sbatch", "--parsable", "-N2", "--requeue", f"--output={tmp_path}/log", job]
    ).stdout.strip()
    deadline = time.monotonic() + SECONDS
    while len(notes_written(tmp_path / "start0")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    requeue = f"from launcher import slurm; slurm.requeue({number}); print(slurm.state({number}))"
    assert "JobState(" in lab.run([sys.executable, "-c", requeue], cwd=ROOT).stdout
    assert ended(lab, number) == "COMPLETED"
    first, second = notes(tmp_path / "start0"), notes(tmp_path / "start1")
    assert len(first) == len(second) == 2
    assert first[0]["master_port"] == first[1]["master_port"] != second[0]["master_port"]


def notes_written(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if path.stat().st_size]


def test_the_scripts_would_run(lab: SlurmLab) -> None:
    paths = sorted((ROOT / "slurm").glob("*.sbatch"))
    subprocess.run(["shellcheck", *paths, *HERE.glob("*.sh")], check=True)
    for path in paths:
        cores = ["--cpus-per-task=2"]  # the nodes have 16
        done = lab.run(["sbatch", "--test-only", *cores, str(path)], check=False)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"


def test_refusals_in_slurms_own_words(lab: SlurmLab, tmp_path: Path) -> None:
    asks = (
        "from launcher import slurm; import pathlib, sys; slurm.submit(pathlib.Path(sys.argv[1]))"
    )
    for option, message in (
        ("--partition=gpus", "there is no such partition (known: main); set 'partition'"),
        ("--gpus-per-node=9", "sbatch refused the script: Batch job submission failed"),
    ):
        job = script(tmp_path / "job", f"#SBATCH {option}", "true")
        done = lab.run([sys.executable, "-c", asks, job], check=False, cwd=ROOT)
        assert message in done.stderr


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("n1 slots=1\nn2 slots=1", "fine"),
        ("n1 slots=1\nn9 slots=1", "hosts: n9: no such host name; correct it here"),
        ("n1 slots=1\nhead slots=1", "hosts: head: ssh does not let this user in without"),
        ("n1 slots=1\nn2 slots=0", "hosts:2: 'n2 slots=0' should look like 'node1 slots=8'"),
    ],
)
def test_hosts_are_looked_at(lab: SlurmLab, tmp_path: Path, hosts: str, message: str) -> None:
    """There is no sshd on the head. All hosts are asked, where DeepSpeed asks the first one."""
    (tmp_path / "hosts").write_text(hosts)
    asks = (
        "import pathlib, sys\nfrom launcher import errors, hostfile\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n hosts = hostfile.read_hostfile(path)\n hostfile.check_names(hosts, path)\n"
        " hostfile.check_ssh(hosts, path)\n print('fine')\n"
        "except errors.LaunchError as err:\n print(err)"
    )
    words = [sys.executable, "-c", asks, str(tmp_path / "hosts")]
    said = lab.run(words, cwd=ROOT).stdout
    assert message in said and said.count("\n") == 1


def test_what_is_left_on_hosts_is_ended(lab: SlurmLab) -> None:
    """By its mark, on those hosts that can be asked; what has another mark stays."""
    for node, mark in (("n1", "ours"), ("n2", "ours"), ("n2", "theirs")):
        words = [f"{MARK}={mark}", "sh", "-c", "trap '' TERM; setsid sleep 60 >/dev/null 2>&1 &"]
        lab.run(words, node)
    ends = (
        "import sys; from launcher.leftovers import end_leftovers\n"
        "print(end_leftovers(sys.argv[1], ['n1', 'n2', 'n3', 'head']))"
    )
    done = lab.run([sys.executable, "-c", ends, "ours"], cwd=ROOT)
    assert done.stdout == "({'n1': 1, 'n2': 1}, ['head'])\n"
    assert len(lab.strangers()) == 1
    lab.run([sys.executable, "-c", ends, "theirs"], cwd=ROOT)
    assert lab.strangers() == []


def test_launch_submits_follows_and_ends(lab: SlurmLab, tmp_path: Path) -> None:
    """The training itself is a stand-in here: what is tested is the way to it and back."""
    stub = tmp_path / "python"
    stub.write_text(
        "#!/bin/bash\n"
        '[ "$2" != launcher.preflight ] || exit 0\n'
        'while [ "$1" != --out ]; do shift; done\n'
        'echo "rank $SLURM_PROCID of $SLURM_NTASKS"\n'
        '[ "$SLURM_PROCID" != 0 ] || echo "{}" > "$2/finished.json"\n'
    )
    stub.chmod(0o755)
    (tmp_path / "cluster.yaml").write_text(f"python: {stub}\ncpus_per_gpu: 2\nmemory: '100'\n")
    run = tmp_path / "run"
    line = ["launch", "configs/ss_vae/tiny.yaml", "--out", str(run), "--nodes", "4", "--gpus", "2",
            "--site", str(tmp_path / "cluster.yaml"), "train.batch_samples=8"]  # fmt: skip
    done = lab.run([sys.executable, "-m", "threed_gen.cli", *line], check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{rank}: rank {rank} of 8" for rank in range(8)]
    assert "finished (job" in done.stderr

"""Preflight on a real Slurm: faults are planted on single nodes, which are named with the cure."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.ports import key_port
from launcher.preflight import job
from launcher.preflight.finding import CHECKS
from launcher.site import Site
from tests.slurm.faults import Faults
from tests.slurm.jobs import ended, script
from tests.slurm.lab import SlurmLab
from threed_gen.data.index import INDEX_NAME
from threed_gen.data.table import table_bytes

pytestmark = [pytest.mark.slurm, pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
NODES = ["n1", "n2", "n3", "n4"]
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Path]:
    """A run directory, prepared data, caches and a temporary directory, on the shared disk."""
    place = {name: tmp_path / name for name in ("run", "data", "cache", "scratch")}
    for path in place.values():
        path.mkdir()
    content = table_bytes("threed-gen index", 1, {"params": {}, "shards": []}, [])
    (place["data"] / INDEX_NAME).write_bytes(content)
    return place


def environment(place: dict[str, Path]) -> list[str]:
    cache = place["cache"]
    return [
        "env", f"TORCH_EXTENSIONS_DIR={cache}/torch", f"TRITON_CACHE_DIR={cache}/triton",
        f"TMPDIR={place['scratch']}", "OMP_NUM_THREADS=1",
    ]  # fmt: skip


def interpreter(tmp_path: Path, node: str, line: str) -> Path:
    """Python as ever, but on one node a line of shell runs before it."""
    path = tmp_path / "python"
    path.write_text(
        f'#!/bin/bash\n[ "$(hostname)" != {node} ] || {line}\nexec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)
    return path


def doctor(lab: SlurmLab, place: dict[str, Path], *options: str) -> tuple[int, dict[str, Any]]:
    """`threed-gen doctor --nodes 4`, with its exit code and what it found."""
    words = [sys.executable, "-m", "threed_gen.cli", "doctor", "--json", "--run"]
    words += [str(place["run"]), "--data", str(place["data"]), *options]
    done = lab.run([*environment(place), *words], check=False, cwd=ROOT)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def failures(record: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The line of each failure by node and check; two of a check are a mistake."""
    lines: dict[tuple[str, str], str] = {}
    for node, findings in record["nodes"].items():
        for finding in findings:
            if finding["state"] == "bad":
                assert (node, finding["check"]) not in lines, record
                lines[node, finding["check"]] = finding["trouble"]
    return lines


def matches(told: dict[tuple[str, str], str], patterns: dict[tuple[str, str], str]) -> None:
    """Exactly these nodes and checks fail, in these words."""
    assert set(told) == set(patterns), told
    for key, line in told.items():
        assert re.fullmatch(patterns[key], line), told


def submitted(lab: SlurmLab, place: dict[str, Path], python: str, gpus: int = 0) -> tuple[str, str]:
    """A job with the preflight before its ranks: how it ended, and its log."""
    log = place["run"].parent / "log"
    lines = [
        "set -euo pipefail",
        f"door=(--out {place['run']} data.path={place['data']})",
        job.line(Site(), python, gpus),
        f"srun touch {log.parent}/started.$SLURM_JOB_ID",
    ]
    text = script(log.parent / "job", *lines)
    words = ["sbatch", "--parsable", "-N4", "--ntasks-per-node=2", f"--output={log}", text]
    number = lab.run([*environment(place), *words], cwd=ROOT).stdout.strip()
    state = ended(lab, number)
    assert (log.parent / f"started.{number}").exists() == (state == "COMPLETED")
    return state, log.read_text()


def test_a_job_on_a_healthy_cluster_starts(lab: SlurmLab, place: dict[str, Path]) -> None:
    begin = time.monotonic()
    state, log = submitted(lab, place, sys.executable)
    assert time.monotonic() - begin < 60
    assert state == "COMPLETED", log
    head, _, *rows, verdict = log.splitlines()
    assert head.split() == ["node", *CHECKS]
    assert [row.split()[0] for row in rows] == NODES
    assert all("✗" not in row and "–" not in row and row.count("GB/s") >= 2 for row in rows), log
    assert "4 nodes looked at in" in verdict and verdict.endswith("all is well")
    assert list(place["run"].iterdir()) == list(place["scratch"].iterdir()) == []


def test_a_job_on_an_ill_cluster_does_not_start(
    lab: SlurmLab, place: dict[str, Path], faults: Faults, tmp_path: Path
) -> None:
    """One fault on a node or two, so that each line has to name the right one."""
    hosts = (lab.root / "hosts").read_text()
    faults.instead("n1", Path("/etc/hosts"), hosts.replace("10.77.0.12 n2", "10.77.0.14 n2"))
    faults.own_disk("n2", place["scratch"], "size=1m")
    lab.run(["sh", "-c", f"cat /dev/zero >{place['scratch']}/full || true"], "n2")
    ahead = f"export LD_PRELOAD={FAKETIME[0]} FAKETIME=+412s FAKETIME_DONT_FAKE_MONOTONIC=1"
    python = interpreter(tmp_path, "n3", ahead)
    lock = place["cache"] / "torch" / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 7200, time.time() - 7200))
    index = place["data"] / INDEX_NAME
    other = table_bytes("threed-gen index", 1, {"params": {"tau": 1}, "shards": []}, [])
    faults.instead("n4", index, other.decode())
    source = ROOT / "launcher" / "hostlist.py"
    faults.instead("n4", source, source.read_text() + "# not committed\n")
    state, log = submitted(lab, place, str(python))
    assert state == "FAILED"
    told = [line for line in log.splitlines() if line.split(":")[0] in NODES]
    patterns = [
        r"n1: n2 leads to 10.77.0.14 there, elsewhere to 10.77.0.12: correct /etc/hosts on n1",
        r"n1: (\S+/lock) was left by a build that is gone, 120 min ago, .* waits: rm \1",
        r"n1: does not reach n2 on port 15\d+ \(n4 answers in its place\): open the ports .*",
        r"n2: \S+ \(TMPDIR\) has 0 MiB free, 256 are needed: free some space there",
        r"n3: clock is 41[12] s ahead of the others: start chronyd \(or ntpd\) on it",
        r"n4: code is \w+, the others have \w+: bring its copy of \S+ up to date .*",
        r"n4: \S+index.jsonl has sha256 \w+, the others have \w+: copy the same index there",
    ]
    assert len(told) == len(patterns), log
    for line, pattern in zip(told, patterns, strict=True):
        assert re.fullmatch(pattern, line), log


def test_nodes_that_do_not_reach_each_other(
    lab: SlurmLab, place: dict[str, Path], faults: Faults
) -> None:
    """Ports closed in the job's range or beyond it, Debian's 127.0.1.1, a disk that is apart."""
    beyond = ("sport", "32768-60999", "dport", "32768-60999", "to", "10.77.0.8/29")  # not the head
    faults.firewall("n2", *beyond)
    hosts = (lab.root / "hosts").read_text()
    faults.instead("n3", Path("/etc/hosts"), hosts.replace("10.77.0.13 n3", "127.0.1.1 n3"))
    faults.firewall("n4", "sport", "15000-29999")
    faults.own_disk("n4", place["run"], "size=4g")
    code, record = doctor(lab, place, "--nodes", "4")
    assert code == 2 and record["seconds"] <= 60
    matches(
        failures(record),
        {
            ("n2", "all-reduce"): r"all-reduce with n1 fails \(.*\): open all ports between .*",
            ("n3", "names"): r"its own name n3 leads to 127.0.1.1, where no other node .*",
            ("n4", "shared"): r"does not see what n1 n2 n3 wrote; .*/run is not the same disk .*",
            ("n4", "ports"): r"is not reached from n3 on port 15\d+ \(timed out\): open the ports "
            r"15000 to 29999 between the nodes .*",
        },
    )


def test_hosts_over_ssh(
    lab: SlurmLab, place: dict[str, Path], faults: Faults, tmp_path: Path
) -> None:
    """One hangs, one is not there, a port is taken, and none has the GPUs that were asked for."""
    python = interpreter(tmp_path, "n4", "exec cat >/dev/null")
    (tmp_path / "hosts").write_text("".join(f"{node} slots=2\n" for node in [*NODES, "n9"]))
    (tmp_path / "site.yaml").write_text(f"python: {python}\n")
    port = key_port(str(place["run"]))
    faults.listener("n1", port)
    faults.slow_names("n3")
    code, record = doctor(
        lab, place, "--hostfile", str(tmp_path / "hosts"), "--gpus", "2",
        "--site", str(tmp_path / "site.yaml"),
    )  # fmt: skip
    assert code == 2 and record["seconds"] <= 60
    gpus = r"2 GPUs asked for, but no nvidia-smi here: install NVIDIA's driver, or leave the node.*"
    matches(
        failures(record),
        {
            **{(node, "GPU"): gpus for node in NODES[:3]},
            ("n1", "ports"): f"port {port} is taken by another process: end it .*",
            ("n3", "names"): r"looking n3 up takes 2 s: add the nodes to /etc/hosts there, or .*",
            ("n4", "up"): r"does not answer within \d+ s: see whether it is up",
            ("n9", "up"): r"does not answer \(.*resolve hostname n9.*\): see whether it is up",
        },
    )

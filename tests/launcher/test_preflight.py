"""Preflight without a cluster: what each check judges, and how one machine looks at itself."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.preflight import clock, data_index, gpu, locks, names, ports, ring, shared, versions
from launcher.preflight.finding import ByNode, Finding, Verdicts
from launcher.preflight.wire import Joiner, Wire, lines
from tests.launcher.programs import Programs

NODES = ["n1", "n2", "n3", "n4"]


def reported(check: str, **facts: dict[str, Any]) -> ByNode:
    """What nodes have said of one check."""
    return {node: [Finding(check, "ok", facts=own)] for node, own in facts.items()}


def lines_of(verdicts: Verdicts) -> list[str]:
    return [f"{node}: {f.trouble}" for node, f in verdicts if f.state == "bad"]


def test_the_clock_that_differs_is_named() -> None:
    offsets = {"n1": 0.1, "n2": -0.2, "n3": 412.3, "n4": -1.5}
    verdicts = clock.compare({node: clock.Offset(s, 0.01) for node, s in offsets.items()})
    assert lines_of(verdicts) == [
        "n3: clock is 412 s ahead of the others: start chronyd (or ntpd) on it"
    ]
    assert clock.offset(asked=100.0, answered=104.0, theirs=99.0) == clock.Offset(-3.0, 2.0)
    late = {"n1": clock.Offset(0.0, 0.0), "n2": clock.Offset(0.1, 0.0), "n3": clock.Offset(-9, 8)}
    assert lines_of(clock.compare(late)) == []  # an answer that took long says little


def test_another_version_than_most_is_named() -> None:
    same = {"python": "3.11.7", "torch": "2.13.0", "code": "aa"}
    found = reported("versions", n1=same, n2={**same, "torch": "2.12.0"}, n3=same)
    (line,) = lines_of(versions.compare(found))
    assert line.startswith("n2: torch is 2.12.0, the others have 2.13.0: install the same environ")
    (line,) = lines_of(versions.compare(reported("versions", n1=same, n2={**same, "code": "bb"})))
    assert line.startswith("n2: code is bb, n1 has aa: bring its copy of ")
    drivers = reported(
        "GPU", n1={"driver": "570.1"}, n2={"driver": "535.9"}, n3={"driver": "570.1"}
    )
    assert lines_of(versions.compare(drivers)) == [
        "n2: driver is 535.9, the others have 570.1: install the same driver, or leave the node out"
    ]


def test_the_digest_sees_every_source_file(tmp_path: Path) -> None:
    source = tmp_path / "kernels" / "ssa" / "plan.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1\n")
    before = versions.code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert versions.code_digest(tmp_path) == before
    source.write_text("a = 2\n")
    assert versions.code_digest(tmp_path) != before


def test_a_node_that_is_apart_is_named(tmp_path: Path) -> None:
    def seen(**missing: list[str]) -> list[str]:
        found = reported("shared", **{node: {"missing": names} for node, names in missing.items()})
        return [line.split(";")[0] for line in lines_of(shared.compare(tmp_path, found))]

    assert seen(n1=[], n2=[], n3=[]) == []
    assert seen(n1=["n3"], n2=["n3"], n3=["n1", "n2"]) == ["n3: does not see what n1 n2 wrote"]
    assert seen(n1=["n2"], n2=["n1"]) == ["n2: does not see what n1 wrote"]
    assert seen(n1=[], n2=["n1"], n3=[]) == [
        "n2: does not see what n1 wrote 5 s ago",
    ]


def test_files_of_all_nodes_are_written_seen_and_removed(tmp_path: Path) -> None:
    for node in NODES[:2]:
        assert shared.write(tmp_path, "abc", node).state == "ok"
    assert shared.see(tmp_path, "abc", NODES[:2]).facts == {"missing": []}
    assert shared.see(tmp_path, "other", []).facts == {"missing": []}
    for node in NODES[:2]:
        shared.remove(tmp_path, "abc", node)
    assert list(tmp_path.iterdir()) == []
    trouble = shared.write(tmp_path / "nowhere", "abc", "n1").trouble
    assert trouble.startswith(f"cannot write to {tmp_path}/nowhere: No such file")


def test_a_name_that_leads_elsewhere_on_one_node_is_named() -> None:
    right = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
    found = reported(
        "names",
        n1={"leads": right},
        n2={"leads": {**right, "n3": "10.0.0.1"}},
        n3={"leads": right},
    )
    assert lines_of(names.compare(found)) == [
        "n2: n3 leads to 10.0.0.1 there, elsewhere to 10.0.0.3: correct /etc/hosts on n2"
    ]


def test_a_look_up_that_hangs_ends_in_time() -> None:
    answer = names.look_up(lambda: time.sleep(60) or "", limit=0.05)
    assert answer.answer is None and answer.seconds < 5
    (finding,) = [f for f in names.look("n1", ["n1", "no-such.invalid"]) if "no-such" in f.trouble]
    assert "no-such.invalid leads to no address there" in finding.trouble


def test_a_lock_counts_only_when_it_is_old_and_nobody_has_it_open(tmp_path: Path) -> None:
    environ = {"TORCH_EXTENSIONS_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "no")}
    lock = tmp_path / "py311_cpu" / "shm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 3600, time.time() - 3600))
    (found,) = locks.locks(environ)
    assert (found.path, found.held) == (lock, False) and 3599 < found.seconds < 3700
    with lock.open():
        assert locks.locks(environ)[0].held

    def verdict(*nodes: tuple[str, int, float, bool]) -> list[str]:
        facts = {f"n{n}": {"locks": [list(row)]} for n, row in enumerate(nodes, start=1)}
        return [line.split(",")[0] for line in lines_of(locks.compare(reported("locks", **facts)))]

    old, gone = ("/l", 7, 3600.0, False), "/l was left by a build that is gone"
    assert verdict(old, old) == [f"n1: {gone}"]  # one file that both see
    assert verdict(old, ("/l", 8, 3600.0, False)) == [f"n1: {gone}", f"n2: {gone}"]
    assert verdict(old, ("/l", 7, 3600.0, True)) == []  # the other node builds
    assert verdict(("/l", 7, 5.0, False)) == []


def test_an_index_that_differs_or_is_damaged_is_named(tmp_path: Path) -> None:
    found = reported(
        "data",
        n1={"sha256": "a" * 64, "path": "/data/index.jsonl"},
        n2={"sha256": "b" * 64, "path": "/data/index.jsonl"},
        n3={"sha256": "a" * 64, "path": "/data/index.jsonl"},
    )
    (line,) = lines_of(data_index.compare(found))
    assert line.startswith("n2: /data/index.jsonl has sha256 bbbbbbbb, the others have aaaaaaaa: ")
    assert "No such file" in data_index.look(tmp_path).trouble
    path = tmp_path / "index.jsonl"
    path.write_text('{"sha256": "' + "0" * 64 + '"}\n{}\n')
    assert "is damaged or was changed" in data_index.look(tmp_path).trouble


def test_it_reads_indexes_as_they_are_written(tmp_path: Path) -> None:
    from threed_gen.data.index import INDEX_NAME, ShardIndex

    assert INDEX_NAME == data_index.INDEX
    ShardIndex({}, [], []).save(tmp_path)
    assert data_index.look(tmp_path).state == "ok"
    path = tmp_path / INDEX_NAME
    path.write_bytes(path.read_bytes().replace(b"params", b"Params"))
    assert data_index.look(tmp_path).state == "bad"


def test_ports_answer_with_the_nodes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        busy = taken.getsockname()[1]
        listener = ports.Listener("n2", [busy, 0, 0])
        (line,) = lines_of([("n1", listener.finding(first=True))])
        assert line.startswith(f"n1: port {busy} is taken by another process: end it")
        assert listener.finding(first=False).state == "ok"  # rank 0 is elsewhere
    assert ports._connect("localhost", listener.port) == "n2 answers in its place"
    assert "refused" in ports._connect("localhost", listener.spare)


def test_whoever_explains_most_failures_is_blamed() -> None:
    found = reported(
        "ports",
        n1={"failed": []},
        n2={"failed": [["n5", 15_000, "timed out"]]},
        n3={"failed": [["n4", 15_000, "timed out"], ["n1", 15_000, "timed out"]]},
        n4={"failed": []},
    )
    ways = [line.split(":")[1] for line in lines_of(ports.compare(found))]
    assert ways == [
        " does not reach n4 on port 15000 (timed out)",
        " is not reached from n2 on port 15000 (timed out)",
    ]
    found = reported("ports", n1={"failed": [["n2", 15_000, "n3 answers in its place"]]}, n2={})
    assert lines_of(ports.compare(found))[0].startswith("n1: does not reach n2 on port 15000 (n3")
    edge = [("n1", "n2", "")]
    assert [node for node, _ in ports.blame(edge, set())] == ["n2"]
    assert [node for node, _ in ports.blame(edge, {"n1"})] == ["n1"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_rounds_cover_the_ring_and_never_ask_a_node_twice(count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    rounds = ring.rounds(nodes)
    pairs = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(pairs) == len(set(pairs)) == {1: 0, 2: 1}.get(count, count)
    assert all(len({n for pair in pairs for n in pair}) == 2 * len(pairs) for pairs in rounds)
    times = [sum(node in pair for pair in pairs) for node in nodes]
    assert set(times) == {min(count - 1, 2)}


def test_the_node_that_fails_with_both_neighbours_is_named() -> None:
    found: dict[str, list[Finding]] = {
        "n1": [Finding("all-reduce", "ok", facts={"failed": [["n1", "n2", "timed out"]]})],
        "n2": [
            Finding("all-reduce", "ok", facts={"failed": [["n1", "n2", "timed out"]]}),
            Finding("all-reduce", "ok", facts={"failed": [["n2", "n3", "timed out"]]}),
        ],
        "n3": [Finding("all-reduce", "ok", facts={"failed": [["n2", "n3", "timed out"]]})],
    }
    (line,) = lines_of(ring.compare(found))
    assert line.startswith("n2: all-reduce with n1 and n3 fails (timed out): open all ports")
    found = {"n1": [Finding("GPU", "ok", facts={"driver": "1"})]}
    found["n1"].append(ring.ready_finding({"cuda": False, "meant": True}))
    assert "torch cannot use" in lines_of(ring.compare_gpus(found))[0]
    found["n1"][-1] = ring.ready_finding({"cuda": False, "meant": False})
    assert ring.compare_gpus(found) == [], "a training that keeps to the CPU"
    assert ring.ready_finding({"error": "No module named 'torch'"}).state == "bad"


GOOD = "{index}, NVIDIA H100 80GB HBM3, 570.86.15, {errors}"


@pytest.mark.parametrize(
    ("asked", "answer", "trouble"),
    [
        (2, [GOOD.format(index=0, errors=0), GOOD.format(index=1, errors="[N/A]")], ""),
        (None, [GOOD.format(index=0, errors=0)], ""),
        (2, [GOOD.format(index=0, errors=0)], "1 GPUs answer, 2 asked for: look for Xid errors"),
        (1, [GOOD.format(index=0, errors=3)], "GPU 0 (NVIDIA H100 80GB HBM3) counts 3 uncorrected"),
    ],
)
def test_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, answer: list[str],
    trouble: str,
) -> None:  # fmt: skip
    programs = Programs(tmp_path, monkeypatch)
    assert gpu.look(None).state == "note" and gpu.look(0).state == "ok"
    assert gpu.look(8).trouble.startswith("8 GPUs asked for, but no nvidia-smi here")
    remapped = 'case "$1" in *remapped*) echo "0000:01:00.0, No, No"; exit 0;; esac'
    rows = "; ".join(f"echo '{row}'" for row in answer)
    programs.add("nvidia-smi", then=f"{remapped}; {rows}")
    found = gpu.look(asked)
    assert found.trouble.startswith(trouble) and (found.state == "bad") == bool(trouble)
    assert trouble or found.facts == {"driver": "570.86.15"}


def test_a_gpu_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("nvidia-smi", out="Unable to determine the device handle: GPU is lost", code=15)
    assert "nvidia-smi fails (Unable to determine" in gpu.look(1).trouble
    pending = 'case "$1" in *remapped*) echo "0000:01:00.0, Yes, No"; exit 0;; esac'
    programs.add("nvidia-smi", then=f"{pending}; echo '{GOOD.format(index=0, errors=0)}'")
    assert "0000:01:00.0 waits for spare memory rows" in gpu.look(1).trouble


def test_messages_survive_what_is_between_the_nodes() -> None:
    """Cut into short lines, alternating with another node's and with a greeting."""
    long = {"text": "π" * 1000, "n": list(range(300))}
    one, two = lines("n1", long), lines("n2", {"short": 1})
    assert len(one) > 3 and all(len(line) < 1000 and line.isascii() for line in one)
    joiner = Joiner()
    whole = [joiner.add(line) for line in [one[0], *two, *one[1:]]]
    assert [message for message in whole if message] == [("n2", {"short": 1}), ("n1", long)]
    with pytest.raises(ValueError):
        joiner.add("Welcome to the cluster\n")


def test_what_a_starter_says_beside_messages_is_kept() -> None:
    inbox: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    program = "echo hello there; echo '@preflight n1 0 {\"a\": 1}'; echo no such host >&2; read x"
    wire = Wire(["sh", "-c", program], inbox)
    assert inbox.get(timeout=10) == ("n1", {"a": 1})
    assert not wire.ended
    wire.close()
    wire.end(10)
    assert wire.ended
    assert sorted(wire.said) == ["hello there", "no such host"]


def test_this_machine_looks_at_itself(tmp_path: Path) -> None:
    """The whole way, as a job's script calls it; a lock that was left keeps it from starting."""
    (tmp_path / "data").mkdir()
    lock = tmp_path / "cache" / "torch" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environ.update(TORCH_EXTENSIONS_DIR=str(lock.parent), TRITON_CACHE_DIR=str(tmp_path))
    words = ["--out", str(tmp_path / "run"), f"data.path={tmp_path / 'data'}"]
    done = subprocess.run(
        [sys.executable, "-m", "launcher.preflight", "--", *words],
        env=environ, capture_output=True, text=True,
    )  # fmt: skip
    name = socket.gethostname()
    told = [line for line in done.stderr.splitlines() if line.startswith(f"{name}: ")]
    assert done.returncode == 2, done.stderr
    assert len(told) == 2, done.stderr
    assert f"rm {lock}" in told[0]
    assert f"cannot read {tmp_path}/data/index.jsonl: No such file" in told[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]


def test_a_finding_travels_as_json() -> None:
    finding = Finding("disk", "bad", "", "is full", {"free": 1})
    assert Finding(**json.loads(json.dumps(finding.__dict__))) == finding

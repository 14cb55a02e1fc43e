"""Hostile files: every one is a sample or a named reject, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.hostile import write_hostile
from tests.data.hostile_case import Case
from tests.geometry.shapes import box
from threed_gen.data.dataset import SDFDataset
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import load_asset
from threed_gen.geometry.narrow_band import build_sparse_sdf
from threed_gen.geometry.reading.reasons import FLAGS, REASONS

MEASURED = {"flat", "timeout", "out_of_memory"}  # what only `prepare` finds out
NOT_OF_CONTENT = {"missing", "format"}

# Loaded by every Python process below: notes each file under WATCHED that is opened or changed.
WATCHER = """
import atexit, os, sys
_log = os.open(f"{os.environ['WATCH_LOG']}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_root = os.environb[b"WATCHED"]
def _note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(_log, f"network {event}\\n".encode())
    if event == "open" or event.startswith(("os.rem", "os.ren", "os.mk", "os.trunc", "os.sym")):
        for name in (os.path.abspath(os.fsencode(n)) for n in args if isinstance(n, (str, bytes))):
            if name.startswith(_root):
                os.write(_log, repr(name).encode() + b"\\n")
sys.addaudithook(_note)
@atexit.register
def _peak():
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    os.write(_log, f"peak {peak.split()[1]}\\n".encode())
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Case]]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_hostile(folder, with_heavy=True)


opened: list[str] | None = None


def watch_opens(event: str, args: tuple[object, ...]) -> None:
    if opened is not None and event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(os.fsdecode(args[0]))


sys.addaudithook(watch_opens)


@pytest.fixture
def opens() -> Iterator[list[str]]:
    """The files that Python opens during a test."""
    global opened
    opened = []
    yield opened
    opened = None


def test_there_is_a_file_of_every_kind(hostile: tuple[Path, dict[str, Case]]) -> None:
    _, cases = hostile
    assert len(cases) >= 60
    expected = {word for case in cases.values() for word in case.expect.split()}
    assert expected - {"sample"} == REASONS.keys() - NOT_OF_CONTENT | MEASURED
    assert {flag for case in cases.values() for flag in case.flags} == FLAGS.keys()


def test_each_file_as_expected(hostile: tuple[Path, dict[str, Case]], opens: list[str]) -> None:
    folder, cases = hostile
    source = folder / "source"
    wrong: dict[str, str] = {}
    for name, case in cases.items():
        if MEASURED & set(case.expect.split()):
            continue
        opens.clear()
        try:
            asset = load_asset(source / name)
        except MeshError as err:
            found, flags = err.reason, case.flags
            text = str(err)
            foreseen = "unreadable as" not in text
            named = text.isprintable() and len(text) < 1400 and Path(name).stem[-4:] in text
            if not (foreseen and named):
                wrong[name] = f"says {text!r}"
        else:
            found, flags = "sample", asset.flags
            assert set(asset.flags) <= FLAGS.keys()
        if found not in case.expect.split() or flags != case.flags:
            wrong[name] = f"is {found} {flags}, not {case.expect} {case.flags}"
        own = str((source / name).parent.resolve()) + os.sep
        for file in opens:
            if not os.path.realpath(file).startswith(own) and str(folder) in file:
                wrong[name] = f"opened {file}"
    assert wrong == {}


def test_damaged_bytes_are_rejects_at_worst(
    hostile: tuple[Path, dict[str, Case]], tmp_path: Path
) -> None:
    """Small files of every format with some bytes changed, lost or doubled."""
    rng = random.Random(0)
    _, cases = hostile
    whole = [c for c in cases.values() if c.expect == "sample" and len(c.content) < 20_000]
    found = Counter[str]()
    for _ in range(400):
        case = rng.choice(whole)
        content = bytearray(case.content)
        for _ in range(rng.choice([1, 1, 3])):
            at, length = rng.randrange(len(content)), rng.randrange(1, 5)
            new = rng.choice([b"", b"\xff" * 4, b"\0" * 4, b"9", b"-", bytes(content[:length])])
            content[at : at + length] = new
        path = tmp_path / f"a{Path(case.name).suffix}"
        path.write_bytes(content)
        try:
            load_asset(path)
            found["sample"] += 1
        except MeshError as err:
            found[err.reason] += 1
    assert found.keys() <= REASONS.keys() | {"sample"}
    assert found["sample"] > 20 and found["unreadable"] > 100, found


def snapshot(*folders: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for folder in folders
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.timeout(300)
def test_prepare(hostile: tuple[Path, dict[str, Case]], tmp_path: Path) -> None:
    folder, cases = hostile
    build_sparse_sdf(box(), 16)  # kernels are compiled once; that must not count for the first file
    out, cwd, log, hooks = (folder / "out", tmp_path / "cwd", tmp_path / "log", tmp_path / "hooks")
    for made in (cwd, log, hooks):
        made.mkdir()
    (hooks / "sitecustomize.py").write_text(WATCHER)
    before = snapshot(folder / "source", folder / "outside", cwd)
    command = ["prepare", folder / "source", out, "--resolution", "16", "--workers", "2"]
    limits = ["--timeout", "10", "--memory-mb", "1500"]
    path = os.pathsep.join([str(hooks), *sys.path])
    watched = {"PYTHONPATH": path, "WATCH_LOG": str(log), "WATCHED": str(folder)}
    with (tmp_path / "told").open("w+") as told:
        run = subprocess.Popen(
            [sys.executable, "-m", "threed_gen.cli", *map(str, command), *limits],
            cwd=cwd, env={**os.environ, **watched}, stdout=told, stderr=subprocess.STDOUT,
        )  # fmt: skip
        code = run.wait()
        told.seek(0)
        text = told.read()
    assert code == 0, text

    rejects = [json.loads(line) for line in (out / "rejects.jsonl").open()]
    found = {row["source"]: row["reason"] for row in rejects}
    entries = SDFDataset(out).index.samples
    found |= {entry.source: "sample" for entry in entries}
    assert len(entries) + len(rejects) == len(cases)
    wrong = {name: found[name] for name, c in cases.items() if found[name] not in c.expect.split()}
    assert wrong == {}
    assert {e.source: tuple(e.flags) for e in entries if e.flags} == {
        name: case.flags for name, case in cases.items() if case.flags
    }
    assert re.search(rf"\b{len(entries)} samples", text)
    for reason, count in Counter(found.values()).items():
        assert reason == "sample" or re.search(rf"\b{reason} {count}\b", text), reason

    ledgers = [file.read_text() for file in (out / "work").glob("ledger*.jsonl")]
    outcomes = [
        json.loads(line.partition(" ")[2]) for text in ledgers for line in text.splitlines()
    ]
    peaks = {outcome["source"]: outcome["peak_mb"] for outcome in outcomes}
    assert peaks.keys() == cases.keys()
    assert min(peaks.values()) > 50 and max(peaks.values()) < 1600

    assert snapshot(folder / "source", folder / "outside", cwd) == before
    notes = {int(file.name): file.read_text().splitlines() for file in log.iterdir()}
    assert run.pid in notes and len(notes) > 2  # the parent and its children were watched
    peak = next(line for line in notes[run.pid] if line.startswith("peak"))
    assert int(peak.split()[1]) < 1_000_000, "the parent took more than 1 GB"
    touched = {line for lines in notes.values() for line in lines if not line.startswith("peak")}
    for line in touched:
        assert not line.startswith("network"), line
        file = os.fsdecode(eval(line))  # a name as it was written by repr
        real = os.path.realpath(file)
        assert real.startswith((str(folder / "source"), str(out))), line
        assert "decoy" not in real, line

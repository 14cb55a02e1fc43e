"""The quickstart's promises: it redoes nothing, goes on where it stopped, mixes nothing up.

The long steps are stood in for by functions that leave the same files; `make quickstart` itself
runs in continuous integration.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from threed_gen import quickstart as module
from threed_gen.errors import UserError
from threed_gen.quickstart import Quickstart, free_name, read_json

VERDICT = {
    "step": 7,
    "shapes": [{"name": "mug", "iou": 0.95}],
    "mean": {"iou": 0.95},
    "worst": {"iou": 0.95},
}


class Pretend(Quickstart):
    """Leaves what the real steps leave, and notes which were run."""

    ran: list[str] = []

    def make_meshes(self) -> None:
        self.ran.append("meshes")
        self.meshes.mkdir(exist_ok=True)
        sizes = {f"shape_{i}.ply": 3 for i in range(module.SHAPES)}
        for name in sizes:
            (self.meshes / name).write_bytes(b"ply")
        (self.meshes / "made.json").write_text(json.dumps(sizes))

    def data_done(self) -> bool:
        return (self.data / "index.jsonl").exists()

    def prepare(self) -> None:
        self.ran.append("prepare")
        self.data.mkdir(exist_ok=True)
        (self.data / "index.jsonl").touch()

    def train(self) -> None:
        self.ran.append("train")
        self.run.mkdir(exist_ok=True)
        (self.run / "finished.json").write_text('{"step": 7}')

    def evaluate(self) -> None:
        self.ran.append("evaluate")
        (self.run / "evaluation.json").write_text(json.dumps(VERDICT))

    def report(self) -> None:
        self.ran.append("report")
        (self.run / "report.html").touch()


ALL = ["meshes", "prepare", "train", "evaluate", "report"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Which steps were really run."""
    notes: list[str] = []
    monkeypatch.setattr(Pretend, "ran", notes)
    monkeypatch.setattr(module, "Quickstart", Pretend)
    config = tmp_path / "tiny.yaml"
    config.write_text("data: {resolutions: [32]}\n")
    monkeypatch.setattr(module, "CONFIG", config)
    return notes


def test_second_time_nothing_is_redone(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quick"
    assert module.quickstart(out, None) == len(ALL)
    assert ran == ALL
    assert module.quickstart(out, None) == 0
    assert ran == ALL
    shown = capsys.readouterr()
    assert "nothing was redone" in shown.err
    assert str((out / "ss_vae" / "report.html").resolve()) in shown.out
    assert "mug" in shown.out


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("meshes/shape_3.ply", ["meshes"]),
        ("data/index.jsonl", ["prepare"]),
        ("ss_vae/finished.json", ["train"]),
        ("ss_vae/evaluation.json", ["evaluate", "report"]),
        ("ss_vae/report.html", ["report"]),
    ],
)
def test_what_is_lost_is_made_again(
    lost: str, again: list[str], ran: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "quick"
    module.quickstart(out, None)
    ran.clear()
    (out / lost).unlink()
    time.sleep(0.02)  # so that a rewritten verdict is newer than the page
    module.quickstart(out, None)
    assert ran == again


def test_other_settings_move_the_earlier_result_aside(ran: list[str], tmp_path: Path) -> None:
    out = tmp_path / "quick"
    module.quickstart(out, None)
    module.CONFIG.write_text("data: {resolutions: [64]}\n")
    module.quickstart(out, None)
    assert ran == ALL + ALL
    assert (tmp_path / "quick.1" / "ss_vae" / "finished.json").is_file()


def test_own_meshes_are_used_where_they_lie(ran: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.ply").write_bytes(b"1")
    module.quickstart(tmp_path / "quick", own)
    assert ran == ALL[1:]
    ran.clear()
    (own / "a.ply").write_bytes(b"2")
    module.quickstart(tmp_path / "quick", own)
    assert ran == ALL[1:]
    assert (tmp_path / "quick.1").is_dir()


def test_wrong_folders_are_told(ran: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of meshes"):
        module.quickstart(tmp_path / "quick", tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds something else"):
        module.quickstart(tmp_path / "full", None)
    assert ran == []


def fake_python(monkeypatch: pytest.MonkeyPatch, code: int) -> list[list[str]]:
    """Stand in for the child process; returns the command lines it was given."""
    calls: list[list[str]] = []

    class Child:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            calls.append(command)
            assert env["OMP_WAIT_POLICY"] == "PASSIVE"

        def __enter__(self) -> Child:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self) -> int:
            return code

    monkeypatch.setattr(module.subprocess, "Popen", Child)
    return calls


def test_training_starts_or_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_python(monkeypatch, 0)
    way = Quickstart(tmp_path / "a b: #c", None)
    way.train()
    assert "--config" in calls[0]
    path = calls[0][-1].removeprefix("data.path=")
    assert json.loads(path) == str(way.data.resolve())
    way.run.mkdir(parents=True)
    (way.run / "config.yaml").touch()
    way.train()
    assert calls[1][2:] == ["--resume", str(way.run), "--fresh"]


@pytest.mark.parametrize(("code", "exit_code"), [(2, 2), (74, 74), (-9, 1)])
def test_a_failed_training_keeps_its_code(
    code: int, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(monkeypatch, code)
    with pytest.raises(UserError) as caught:
        Quickstart(tmp_path, None).train()
    assert caught.value.exit_code == exit_code


def test_torn_json_counts_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert read_json(file) == {}
    file.write_text('{"step":')
    assert read_json(file) == {}
    file.write_text("[1]")
    assert read_json(file) == {}


def test_free_name_counts_up(tmp_path: Path) -> None:
    (tmp_path / "q.1").touch()
    assert free_name(tmp_path / "q") == tmp_path / "q.2"


def test_meshes_and_shards_for_real(tmp_path: Path) -> None:
    """The first two steps as they are: twelve families, closed, prepared, found whole again."""
    from threed_gen.geometry.mesh import boundary_edge_count
    from threed_gen.geometry.mesh_io import load_mesh

    way = Quickstart(tmp_path / "quick", None)
    way.enter()
    assert not way.meshes_done()
    way.make_meshes()
    assert way.meshes_done()
    files = sorted(way.meshes.glob("*.ply"))
    assert len({file.stem.rsplit("_", 1)[0] for file in files}) == module.SHAPES
    assert all(boundary_edge_count(load_mesh(file)) == 0 for file in files)
    assert not way.data_done()
    way.prepare()
    assert way.data_done()
    (shard,) = (way.data / "shards").iterdir()
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert not way.data_done()


@pytest.mark.long
def test_a_stranger_without_a_terminal(tmp_path: Path) -> None:
    """`threed-gen quickstart` in full, as a child process with a log file for a terminal."""
    command: list[Any] = [Path(sys.executable).with_name("threed-gen"), "quickstart"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "quick"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "report.html" in done.stdout

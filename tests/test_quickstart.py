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

from tests import acceptance
from threed_gen.errors import UserError
from threed_gen.quickstart import corridor as module
from threed_gen.quickstart.children import Training, train_side_by_side
from threed_gen.quickstart.corridor import CONFIGS, TASKS, Quickstart
from threed_gen.quickstart.steps import free_name, read_json

VERDICT = {
    "step": 7,
    "shapes": [{"name": "mug", "iou": 0.95}],
    "mean": {"iou": 0.95},
    "worst": {"iou": 0.95},
}
SUMMARY = {"nearest": {"right": 7, "of": 8}}


class Pretend(Quickstart):
    """Leaves what the real steps leave, and notes which were run."""

    ran: list[str] = []
    folder: Path

    def __init__(self, out: Path, meshes: Path | None) -> None:
        super().__init__(out, meshes, self.folder)

    def make_meshes(self) -> None:
        self.ran.append("meshes")
        self.meshes.mkdir(exist_ok=True)
        sizes = {f"shape_{i}.ply": 3 for i in range(self.procedural.count)}
        for name in sizes:
            (self.meshes / name).write_bytes(b"ply")
        (self.meshes / "made.json").write_text(json.dumps(sizes))

    def data_done(self) -> bool:
        return (self.data / "index.jsonl").exists()

    def prepare(self) -> None:
        self.ran.append("prepare")
        self.data.mkdir(exist_ok=True)
        (self.data / "index.jsonl").touch()

    def finish(self, *tasks: str) -> None:
        for task in tasks:
            self.ran.append(task)
            self.run_of(task).mkdir(exist_ok=True)
            (self.run_of(task) / "finished.json").write_text('{"step": 7}')

    def train_first(self) -> None:
        self.finish("ss_vae", "structure_dit")

    def encode(self) -> None:
        self.ran.append("encode")
        self.latents.mkdir(exist_ok=True)
        (self.latents / "latents.jsonl").touch()

    def train_second(self) -> None:
        self.finish("ss_dit")

    def generate(self) -> None:
        self.ran.append("generate")
        for folder, name in ((self.images, "mug.png"), (self.generated, "mug.glb")):
            folder.mkdir(exist_ok=True)
            (folder / name).touch()
        self.mesh.touch()

    def evaluate(self) -> None:
        self.ran.append("evaluate")
        (self.run_of("ss_vae") / "evaluation.json").write_text(json.dumps(VERDICT))
        self.evaluated.mkdir(exist_ok=True)
        (self.evaluated / "summary.json").write_text(json.dumps(SUMMARY))

    def report(self) -> None:
        self.ran.append("report")
        for task in TASKS:
            (self.run_of(task) / "report.html").touch()
        self.page.touch()


ALL = ["meshes", "prepare", "ss_vae", "structure_dit", "encode", "ss_dit", "generate", "evaluate",
       "report"]  # fmt: skip
STEPS = 8


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Which steps were really run."""
    notes: list[str] = []
    for task in TASKS:
        config = tmp_path / "configs" / task / "tiny.yaml"
        config.parent.mkdir(parents=True)
        config.write_text("data: {resolutions: [32], procedural: {count: 4, views: 3}}\n")
    monkeypatch.setattr(Pretend, "ran", notes)
    monkeypatch.setattr(Pretend, "folder", tmp_path / "configs", raising=False)
    monkeypatch.setattr(module, "Quickstart", Pretend)
    return notes


def test_second_time_nothing_is_redone(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quick"
    assert module.quickstart(out, None) == STEPS
    assert ran == ALL
    assert module.quickstart(out, None) == 0
    assert ran == ALL
    shown = capsys.readouterr()
    assert "nothing was redone" in shown.err
    assert str((out / "report.html").resolve()) in shown.out
    assert str((out / "generated.glb").resolve()) in shown.out
    assert "mug" in shown.out and "7 of 8 meshes are nearest" in shown.out


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("meshes/shape_3.ply", ["meshes"]),
        ("data/index.jsonl", ["prepare"]),
        ("latents/latents.jsonl", ["encode"]),
        ("ss_dit/finished.json", ["ss_dit", "generate", "evaluate", "report"]),
        ("generated.glb", ["generate", "evaluate", "report"]),
        ("generated/mug.glb", ["generate", "evaluate", "report"]),
        ("generated.evaluated/summary.json", ["evaluate", "report"]),
        ("ss_vae/evaluation.json", ["evaluate", "report"]),
        ("ss_vae/report.html", ["report"]),
        ("report.html", ["report"]),
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
    config = tmp_path / "configs" / "structure_dit" / "tiny.yaml"
    config.write_text(config.read_text().replace("32", "64"))
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


CHILD = """
import pathlib, sys, time
run, code, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
run.mkdir(exist_ok=True)
print("says", run.name, flush=True)
(run / "began").touch()
time.sleep(seconds)
if code == 0:
    (run / "finished.json").touch()
sys.exit(code)
"""


class Child(Training):
    """A training that sleeps and ends with a code."""

    code, seconds = 0, 0.0

    def command(self) -> list[str]:
        return [sys.executable, "-c", CHILD, str(self.run), str(self.code), str(self.seconds)]


def child(run: Path, code: int = 0, seconds: float = 0.0) -> Child:
    made = Child(Path("tiny.yaml"), run, ())
    object.__setattr__(made, "code", code)
    object.__setattr__(made, "seconds", seconds)
    return made


def test_trainings_run_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = child(tmp_path / "one", seconds=0.5), child(tmp_path / "two", seconds=0.5)
    done = child(tmp_path / "done", code=9)
    done.run.mkdir()
    (done.run / "finished.json").touch()
    start = time.monotonic()
    train_side_by_side([done, first, second])
    assert time.monotonic() - start < 0.95
    assert first.is_finished and second.is_finished
    shown = capfd.readouterr()
    assert "says one" in shown.out and "says two" not in shown.out
    assert second.log.read_text() == "says two\n" and str(second.log) in shown.err


@pytest.mark.parametrize(("code", "exit_code"), [(2, 2), (74, 74), (-9, 1)])
@pytest.mark.parametrize("which", ["the one that speaks", "the other"])
def test_a_failed_training_keeps_its_code(
    code: int, exit_code: int, which: str, tmp_path: Path
) -> None:
    bad, good = child(tmp_path / "bad", code % 256), child(tmp_path / "good")
    if code < 0:
        script = f"import os; os.kill(os.getpid(), {-code})"
        object.__setattr__(bad, "command", lambda: [sys.executable, "-c", script])
    pair = [bad, good] if which == "the one that speaks" else [good, bad]
    with pytest.raises(UserError, match="bad: training ended with code") as caught:
        train_side_by_side(pair)
    assert caught.value.exit_code == exit_code
    assert ("above" in str(caught.value)) == (which == "the one that speaks")


def test_one_that_fails_ends_the_other(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError):
        train_side_by_side([child(tmp_path / "bad", 3), child(tmp_path / "slow", seconds=60)])
    assert time.monotonic() - start < 10
    assert not (tmp_path / "slow" / "finished.json").exists()


def test_training_starts_or_resumes(tmp_path: Path) -> None:
    way = Quickstart(tmp_path / "a b: #c", None)
    words = way.training("ss_dit").command()
    assert words[2:6] == ["--config", str(CONFIGS / "ss_dit" / "tiny.yaml"), "--out",
                          str(way.run_of("ss_dit"))]  # fmt: skip
    told = dict(word.split("=", 1) for word in words[6:])
    assert {key: json.loads(value) for key, value in told.items()} == {
        "data.path": str(way.data.resolve()),
        "latents.path": str(way.latents.resolve()),
        "latents.run": str(way.run_of("ss_vae").resolve()),
        "structure.run": str(way.run_of("structure_dit").resolve()),
    }
    way.run_of("ss_dit").mkdir(parents=True)
    (way.run_of("ss_dit") / "config.yaml").touch()
    words = way.training("ss_dit").command()
    assert words[2:] == ["--resume", str(way.run_of("ss_dit")), "--fresh"]


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


def test_meshes_and_shards_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two steps as they are: closed shapes, shards and pictures, found whole again."""
    from threed_gen.geometry.mesh import boundary_edge_count
    from threed_gen.geometry.mesh_io import load_mesh

    way = Quickstart(tmp_path / "quick", None)
    few = way.procedural.model_copy(update={"count": 3, "views": 2})
    monkeypatch.setattr(way, "procedural", few, raising=False)
    way.enter()
    assert not way.meshes_done()
    way.make_meshes()
    assert way.meshes_done()
    files = sorted(way.meshes.glob("*.ply"))
    assert len({file.stem.rsplit("_", 1)[0] for file in files}) == 3
    assert all(boundary_edge_count(load_mesh(file)) == 0 for file in files)
    assert not way.data_done()
    way.command(*way.preparing())
    assert not way.data_done()  # there are no pictures yet
    way.prepare()
    assert way.data_done()
    (shard,) = (way.data / "shards").iterdir()
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert not way.data_done()


@pytest.mark.long
@pytest.mark.timeout(2400)  # twelve minutes on two cores of its own; here it shares them
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
    assert "report.html" in done.stdout and "generated.glb" in done.stdout
    assert acceptance.main(tmp_path / "quick") == 0

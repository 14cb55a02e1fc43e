"""`threed-gen prepare` and `inspect` as people use them: options, counts, ranks, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.folders import CUBE
from threed_gen.cli import main
from threed_gen.console import Progress
from threed_gen.data.index import ShardIndex

FLAT = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
POINTS = "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.off").write_text(CUBE)
    for name in ("p1", "p2"):
        (folder / f"{name}.off").write_text(POINTS)
    (folder / "flat.off").write_text(FLAT)
    return folder


def _prepare(meshes: Path, out: Path, *more: str) -> int:
    line = ["prepare", str(meshes), str(out), "--resolution", "16", "--workers", "0", "--no-report"]
    return main([*line, *more])


def test_rejects_are_counted_and_are_no_failure(
    meshes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = []
    real = Progress.advance

    def advance(self: Progress, count: int = 1, note: str = "") -> None:
        notes.append(note)
        real(self, count, note)

    monkeypatch.setattr(Progress, "advance", advance)
    assert _prepare(meshes, tmp_path / "out") == 0
    output = capsys.readouterr()
    assert "4 samples in 1 shard" in output.out
    assert "rejected: 3: no_faces 2, flat 1" in output.out
    assert "rejected p2.off: " in output.err
    assert "no_faces 2, flat 1" in notes, "the progress line has the histogram of reasons"
    assert main(["inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "rejected: no_faces 2, flat 1" in shown
    assert "sheet share at 16³: mean 0.00%" in shown
    assert "interior share at 16³" in shown
    assert "prepare is" not in shown


def test_ranks_from_the_command_line(
    meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _prepare(meshes, out, "--rank", "1", "--world-size", "2") == 0
    assert "rank 1 of 2 is done" in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "prepare is stopped" in shown
    assert " open\n" in shown
    assert not (out / "index.jsonl").exists()
    assert _prepare(meshes, out, "--rank", "0", "--world-size", "2") == 0
    assert "4 samples" in capsys.readouterr().out
    assert _prepare(meshes, out, "--rank", "1") == 2
    assert "--world-size" in capsys.readouterr().err


def test_a_slurm_array_shares_the_work(
    meshes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"MIN": 1, "MAX": 3, "COUNT": 3, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (1, 2, 3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert _prepare(meshes, tmp_path / "out") == 0
    assert len(ShardIndex.load(tmp_path / "out").samples) == 4
    names = sorted(path.name for path in (tmp_path / "out" / "work").glob("ledger*"))
    assert names == [f"ledger.{rank}-of-3.jsonl" for rank in range(3)]


def test_options_reach_the_work(
    meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--open-surface", "cap", "--cap-extent", "0.2", "--held-out", "0.25", "--retry-failed"]
    assert _prepare(meshes, out, *more, "--timeout", "5", "--memory-mb", "500") == 0
    params = ShardIndex.load(out).params
    assert (params["open_surface"], params["cap_extent"]) == ("cap", 0.2)
    assert params["held_out"] == 0.25
    assert _prepare(meshes, out) == 2
    assert "open_surface = cap, now it is shell" in capsys.readouterr().err
    assert _prepare(meshes, tmp_path / "new", "--timeout", "0") == 2
    assert "limits" in capsys.readouterr().err

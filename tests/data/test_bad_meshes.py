"""`prepare` and bad meshes: each costs itself only, is named, and may be tried again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.data.folders import CUBE, ListSource, TestAsset, products
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import ShardIndex
from threed_gen.data.ledger import read_ledger
from threed_gen.data.prepare import PrepareSummary, prepare
from threed_gen.data.sources import FolderSource, TryAgainError
from threed_gen.data.status import read_status
from threed_gen.data.workers import Limits
from threed_gen.errors import UserError
from threed_gen.geometry.mesh_io import LoadedMesh


def test_rejects_are_listed_with_a_reason(tmp_path: Path) -> None:
    folder, out = tmp_path / "meshes", tmp_path / "out"
    folder.mkdir()
    (folder / "good.off").write_text(CUBE)
    (folder / "noise.stl").write_bytes(b"\x00\x01" * 50)
    (folder / "points.off").write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    summary = prepare(FolderSource(folder), out, [16], workers=0)
    assert summary.samples == 1
    assert sum(summary.rejects.values()) == 2
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["noise", "points"]
    assert all(line["reason"] and "\n" not in line["message"] for line in lines)
    assert prepare(FolderSource(folder), out, [16], workers=0).built == 0
    (folder / "good.off").unlink()
    with pytest.raises(UserError, match="none of the 2 meshes"):
        prepare(FolderSource(folder), out, [16], workers=0)


def test_odd_assets_do_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crash, a hang and two kinds of explosion cost the asset that caused them, and no other."""
    out = tmp_path / "out"
    deeds = ["box", "cone", "kill", "raise", "hang", "flat", "explode", "cone", "swell", "box"]
    assets = [TestAsset(f"{deed}{'x' * n}", deed) for n, deed in enumerate(deeds)]
    limits = Limits(seconds=4.0, memory_mb=600)
    summary = prepare(ListSource(*assets), out, [16], workers=2, limits=limits)
    assert (summary.samples, summary.built) == (4, 10)
    assert summary.failed == {"crashed": 1, "out_of_memory": 2, "timeout": 1}
    assert summary.rejects == {"flat": 1, "unexpected_error": 1}
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [(line["id"].rstrip("x"), line["status"], line["reason"]) for line in lines] == [
        ("kill", "failed", "crashed"),
        ("raise", "reject", "unexpected_error"),
        ("hang", "failed", "timeout"),
        ("flat", "reject", "flat"),
        ("explode", "failed", "out_of_memory"),
        ("swell", "failed", "out_of_memory"),
    ]
    assert lines[1]["message"] == "IndexError: list index out of range"
    assert lines[2]["message"] == "took longer than 4 s"
    found = {o.source: o for o in read_ledger(out / "work" / "ledger.0-of-1.jsonl")[0]}
    assert found["test/hangxxxx"].seconds >= 4
    assert all(0 < o.peak_mb < 1000 for o in found.values() if o.ok)
    status = read_status(out)
    assert status is not None
    assert (status.ok, status.rejects, status.failed) == (4, summary.rejects, summary.failed)
    assert "failed test/kill" in capsys.readouterr().err


@dataclass(frozen=True)
class _Moody(TestAsset):
    """Fails for want of memory, or of a server, as long as a file is there."""

    mood: Path = Path()

    def load(self) -> LoadedMesh:
        if self.mood.exists():
            if self.id == "memory":
                raise MemoryError
            raise TryAgainError("the server is busy", "network")
        return super().load()


def test_what_failed_is_tried_again_when_asked(tmp_path: Path) -> None:
    mood = tmp_path / "mood"
    mood.touch()
    moody = [_Moody("memory", mood=mood), _Moody("network", mood=mood)]
    source = ListSource(*moody, TestAsset("y"), TestAsset("z", "flat"))

    def run(out: str = "out", again: bool = False) -> PrepareSummary:
        return prepare(source, tmp_path / out, [16], workers=0, retry_failed=again)

    first = run()
    assert (first.built, first.failed) == (4, {"network": 1, "out_of_memory": 1})
    assert run().built == 0, "what failed is settled, too"
    assert run(again=True).built == 2
    mood.unlink()
    assert run().built == 0
    last = run(again=True)
    assert (last.built, last.failed, last.rejects, last.samples) == (2, {}, {"flat": 1}, 3)
    assert run(again=True).built == 0
    attempts = {}
    for outcome in read_ledger(tmp_path / "out" / "work" / "ledger.0-of-1.jsonl")[0]:
        attempts.setdefault(outcome.source, []).append((outcome.attempts, outcome.status))
    assert attempts["test/memory"] == [(1, "failed"), (2, "failed"), (3, "ok")]
    assert attempts["test/z"] == [(1, "reject")]
    run("fresh")
    assert products(tmp_path / "out") == products(tmp_path / "fresh")


def test_strange_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    names = [b"...off", b"caf\xe9.off", "стол.OFF".encode(), b"new\nline.off", b"bad\xff.stl"]
    for name in names:
        (folder / os.fsdecode(name)).write_text(CUBE)
    summary = prepare(FolderSource(folder), tmp_path / "out", [16], workers=1)
    assert summary.samples == 4
    (reject,) = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").open()]
    assert reject["id"] == "bad\udcff"  # a name that is no UTF-8; its content is no STL
    dataset = SDFDataset(tmp_path / "out")
    assert {dataset.entry(i).id for i in range(4)} == {"_.", "стол", "new\nline", "caf\udce9"}
    for number in range(4):
        dataset.load(number, 16)
    assert prepare(FolderSource(folder), tmp_path / "out", [16], workers=0).built == 0


def test_a_file_that_vanishes_or_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in ("a.off", "b.off"):
        (folder / name).write_text(CUBE)
    source = FolderSource(folder)
    prepare(source, tmp_path / "out", [16], workers=0)
    (folder / "b.off").unlink()
    summary = prepare(source, tmp_path / "out", [16], workers=0)
    assert (summary.samples, summary.rejects) == (1, {"unreadable": 1})


def test_a_mesh_thinner_than_a_voxel_is_a_sample_and_the_index_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "cube.off").write_text(CUBE)
    lines = CUBE.splitlines()
    # the same box, a thousandth as high: no voxel centre lies inside at 24³
    thin = [
        " ".join([*words[:2], str(float(words[2]) / 1000)]) if len(words) == 3 and i > 1 else line
        for i, line in enumerate(lines)
        for words in [line.split()]
    ]
    (folder / "sheet.off").write_text("\n".join(thin) + "\n")
    prepare(FolderSource(folder), tmp_path / "out", [24], workers=0)
    cube, sheet = ShardIndex.load(tmp_path / "out").samples
    assert cube.info["grids"]["24"]["thin_share"] == 0
    assert sheet.info["grids"]["24"]["thin_share"] > 0.9

"""`prepare`: the same bytes for any number of workers, nothing done twice, bad input named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.data.fields import same_field
from tests.data.folders import CUBE, ListSource, TestAsset, procedural, products
from threed_gen.data.build import build_asset
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import ShardIndex
from threed_gen.data.payload import decode_payload, encode_payload
from threed_gen.data.prepare import prepare
from threed_gen.data.sources import FolderSource, ProceduralSource, unique_ids
from threed_gen.errors import UserError
from threed_gen.geometry.narrow_band import build_sparse_sdf


def test_workers_and_order_of_completion_do_not_matter(tmp_path: Path) -> None:
    source = ProceduralSource(5)
    for workers in (0, 1, 2):
        summary = prepare(
            source, tmp_path / str(workers), [16, 32], workers=workers, shard_bytes=30_000
        )
        assert (summary.samples, summary.built, summary.reused, summary.rejects) == (5, 5, 0, {})
    assert summary.shards > 1
    assert products(tmp_path / "0") == products(tmp_path / "1") == products(tmp_path / "2")
    dataset = SDFDataset(tmp_path / "2")
    for number, asset in enumerate(source):
        assert dataset.entry(number).id == asset.id
        for resolution in (16, 32):
            stored = dataset.load(number, resolution)
            direct = build_sparse_sdf(asset.load(), resolution)
            assert same_field(stored, decode_payload(encode_payload(direct)))
    assert max(shard.size for shard in dataset.index.shards) <= 30_000


def test_a_second_run_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    for name in ("a.off", "b.off"):
        (folder / name).write_text(CUBE)
    prepare(FolderSource(folder), tmp_path / "out", [16], workers=0)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a mesh was read")

    monkeypatch.setattr("threed_gen.data.sources.load_mesh", forbidden)
    monkeypatch.setattr("threed_gen.data.sources.file_sha256", forbidden)
    start = time.perf_counter()
    summary = prepare(FolderSource(folder), tmp_path / "out", [16], workers=2)
    assert time.perf_counter() - start < 0.5
    assert (summary.built, summary.reused, summary.samples) == (0, 2, 2)
    assert "nothing to do" in capsys.readouterr().err
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert before == after


def test_only_changed_files_are_measured_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "meshes", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.off", "b.off", "sub/c.off"):
        (folder / name).write_text(CUBE)
    assert prepare(FolderSource(folder), out, [16], workers=0).built == 3
    os.utime(folder / "a.off", ns=(1, 1))  # touched, not changed
    (folder / "b.off").write_text(CUBE.replace("1 1 1\n", "1 1 2\n"))
    (folder / "d.off").write_text(CUBE)
    (folder / "sub" / "c.off").unlink()
    summary = prepare(FolderSource(folder), out, [16], workers=0)
    assert (summary.samples, summary.built, summary.reused) == (3, 2, 1)
    prepare(FolderSource(folder), tmp_path / "fresh", [16], workers=0)
    assert products(out) == products(tmp_path / "fresh")
    assert [s.id for s in ShardIndex.load(out).samples] == ["a", "b", "d"]


def test_growing_a_set_keeps_what_is_there(tmp_path: Path) -> None:
    prepare(ProceduralSource(3), tmp_path / "a", [16], workers=0)
    summary = prepare(ProceduralSource(5), tmp_path / "a", [16], workers=0)
    assert (summary.built, summary.reused) == (2, 3)
    prepare(ProceduralSource(5), tmp_path / "b", [16], workers=0)
    assert products(tmp_path / "a") == products(tmp_path / "b")


@pytest.mark.parametrize(
    "loss", ["ledger", "index", "damaged index", "shard", "short shard", "bits"]
)
def test_whatever_is_lost_is_made_again(tmp_path: Path, loss: str) -> None:
    out, source = tmp_path / "out", ProceduralSource(4)
    prepare(source, out, [16], workers=0, shard_bytes=4000)
    whole = products(out)
    shard = sorted((out / "shards").iterdir())[1]
    if loss == "ledger":
        (out / "work" / "ledger.jsonl").unlink()
    elif loss == "index":
        (out / "index.jsonl").unlink()
    elif loss == "damaged index":
        (out / "index.jsonl").write_bytes(whole["index.jsonl"].replace(b"mug", b"jug"))
    elif loss == "shard":
        shard.unlink()
    elif loss == "short shard":
        shard.write_bytes(shard.read_bytes()[:700])
    else:
        shard.write_bytes(bytes(len(shard.read_bytes())))
        (out / "shards" / "shard-000000.tar").unlink()
    summary = prepare(source, out, [16], workers=0, shard_bytes=4000)
    assert products(out) == whole
    expected = {"ledger": 0, "index": 4, "damaged index": 4}.get(loss)
    assert summary.built == expected or (expected is None and 1 <= summary.built < 4)


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


def test_odd_assets_do_not_end_the_run(tmp_path: Path) -> None:
    """A crash in native code costs the asset that caused it, and no other."""
    deeds = ["box", "cone", "kill", "box", "raise", "open", "kill", "cone"]
    assets = [TestAsset(f"{deed}{'x' * n}", deed) for n, deed in enumerate(deeds)]
    summary = prepare(ListSource(*assets), tmp_path / "out", [16], workers=2)
    assert summary.samples == 4
    assert summary.rejects["worker_died"] == 2
    assert summary.rejects["failed"] == 1
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    ]
    assert [line["id"].rstrip("x") for line in lines] == ["kill", "raise", "open", "kill"]
    assert lines[1]["message"] == "IndexError: list index out of range"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolutions": [16, 24]}, "tau = "),
        ({"resolutions": [24]}, "tau = "),
        ({"tau": 0.2}, r"tau = .*0\.25.*0\.2"),
        ({"values": "fp16"}, "values = int8, now it is fp16"),
        ({"shard_bytes": 1000}, "shard_bytes = 1000000000, now it is 1000"),
        ({"source": ProceduralSource(2, seed=1)}, "source = .*'seed': 0.*'seed': 1"),
        ({"resolutions": [20]}, "resolution 20"),
        ({"resolutions": [0]}, "resolution 0"),
        ({"resolutions": []}, "at least one resolution"),
        ({"tau": 0.01}, "tau 0.01"),
        ({"values": "int4"}, "int8 or fp16"),
        ({"workers": -1}, "workers"),
    ],
)
def test_other_parameters_for_the_same_folder_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    arguments: dict[str, Any] = {"source": ProceduralSource(2), "resolutions": [16], "workers": 0}
    prepare(out=tmp_path / "out", **arguments)
    whole = products(tmp_path / "out")
    with pytest.raises(UserError, match=words) as caught:
        prepare(out=tmp_path / "out", **{**arguments, **changes})
    assert "\n" not in str(caught.value)
    assert products(tmp_path / "out") == whole


def test_another_folder_of_meshes_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.off").write_text(CUBE)
    prepare(FolderSource(tmp_path / "one"), tmp_path / "out", [16], workers=0)
    with pytest.raises(UserError, match="other meshes"):
        prepare(FolderSource(tmp_path / "two"), tmp_path / "out", [16], workers=0)


def test_two_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(*_: object, **__: object) -> None:
        prepare(procedural(1), tmp_path, [16], workers=0)

    monkeypatch.setattr("threed_gen.data.prepare.build_asset", nested)
    with pytest.raises(UserError, match="another `prepare`"):
        prepare(procedural(0), tmp_path, [16], workers=0)


def test_interrupting_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def third_time(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return build_asset(*args, **kwargs)

    monkeypatch.setattr("threed_gen.data.prepare.build_asset", third_time)
    with pytest.raises(KeyboardInterrupt):
        prepare(ProceduralSource(4), tmp_path / "out", [16], workers=0)
    summary = prepare(ProceduralSource(4), tmp_path / "out", [16], workers=0)
    assert (summary.built, summary.reused) == (2, 2)


def test_folders_without_meshes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        FolderSource(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no meshes.*\.stl"):
        FolderSource(tmp_path)
    (tmp_path / "file.obj").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        FolderSource(tmp_path / "file.obj")
    with pytest.raises(UserError, match="at least 1"):
        ProceduralSource(0)


def test_ids_are_stems_where_they_can_be() -> None:
    paths = ["a.obj", "b/c.stl", "d/c.stl", "d/e.obj", "d/e.stl", "f/A.off"]
    ids = unique_ids(paths)
    assert ids == ["a", "b__c", "d__c", "d__e.obj", "d__e.stl", "f__A"]
    assert len({name.casefold() for name in ids}) == len(ids)
    assert unique_ids(["chair.obj", "mug.glb"]) == ["chair", "mug"]


def test_strange_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    names = [b"...off", b"caf\xe9.off", "стол.OFF".encode(), b"new\nline.off", b"bad\xff.stl"]
    for name in names:
        (folder / os.fsdecode(name)).write_text(CUBE)
    summary = prepare(FolderSource(folder), tmp_path / "out", [16], workers=2)
    assert summary.samples == 3
    assert sum(summary.rejects.values()) == 2  # trimesh cannot read names that are no UTF-8
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").open()]
    assert {line["id"] for line in rejects} == {"caf\udce9", "bad\udcff"}
    dataset = SDFDataset(tmp_path / "out")
    assert {dataset.entry(i).id for i in range(3)} == {"_.", "стол", "new\nline"}
    for number in range(3):
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


def test_an_out_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written to"):
            prepare(procedural(0), out, [16], workers=0)


def test_a_mesh_thinner_than_a_voxel_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "cube.off").write_text(CUBE)
    lines = CUBE.splitlines()
    # the same box, a thousandth as high: its field has no inside voxel at 16³
    flat = [
        " ".join([*words[:2], str(float(words[2]) / 1000)]) if len(words) == 3 and i > 1 else line
        for i, line in enumerate(lines)
        for words in [line.split()]
    ]
    (folder / "sheet.off").write_text("\n".join(flat) + "\n")
    summary = prepare(FolderSource(folder), tmp_path / "out", [16], workers=0)
    assert summary.samples == 1
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert (reject["id"], reject["reason"]) == ("sheet", "too_thin")
    assert "higher resolution" in reject["message"]

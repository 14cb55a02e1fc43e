"""`prepare`: the same bytes for any number of workers, nothing done twice, bad input named."""

from __future__ import annotations

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
from threed_gen.data.workers import Limits
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
            direct = build_sparse_sdf(asset.load().mesh, resolution)
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
    before = _times(tmp_path / "out")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a mesh was read")

    monkeypatch.setattr("threed_gen.data.source_kinds.folder.load_asset", forbidden)
    monkeypatch.setattr("threed_gen.data.source_kinds.folder.file_sha256", forbidden)
    start = time.perf_counter()
    summary = prepare(FolderSource(folder), tmp_path / "out", [16], workers=2)
    assert time.perf_counter() - start < 0.5
    assert (summary.built, summary.reused, summary.samples) == (0, 2, 2)
    assert "nothing to do" in capsys.readouterr().err
    assert _times(tmp_path / "out") == before


def _times(out: Path) -> dict[Path, int]:
    """When each file was changed last, except for the locks, which say who held them last."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert len(files) > 4
    return {path: path.stat().st_mtime_ns for path in files}


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
        (out / "work" / "ledger.0-of-1.jsonl").unlink()
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


def test_the_index_says_what_was_done_to_each_mesh(tmp_path: Path) -> None:
    tags = {"caption": "a box", "score": 5.5}
    source = ListSource(TestAsset("a", tags=tags), *procedural(*range(12)).assets)
    prepare(source, tmp_path, [16, 24], workers=0, held_out=0.5, open_surface="cap")
    first, *others = ShardIndex.load(tmp_path).samples
    assert first.tags == tags
    assert (first.info["policy"], first.info["faces"], first.info["patches"]) == ("cap", 12, 1)
    assert set(first.info["grids"]) == {"16", "24"}
    assert first.info["grids"]["24"]["sheet_share"] == 0
    assert first.info["grids"]["24"]["fidelity"]["share_beyond_2"] == 0
    assert {sample.split for sample in others} == {"train", "held_out"}
    text = (tmp_path / "index.jsonl").read_text()
    assert not any(word in text for word in ("seconds", "peak_mb", "attempts", "serial"))


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
        ({"open_surface": "cap"}, "open_surface = shell, now it is cap"),
        ({"cap_extent": 0.1}, r"cap_extent = 0\.05, now it is 0\.1"),
        ({"held_out": 0.1}, r"held_out = 0\.05, now it is 0\.1"),
        ({"open_surface": "weld"}, "shell, cap or winding"),
        ({"cap_extent": 2.0}, "cap_extent"),
        ({"held_out": 1.0}, "held-out"),
        ({"limits": Limits(0, 1)}, "limits"),
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


def test_a_new_caption_changes_the_index_and_no_shard(tmp_path: Path) -> None:
    prepare(ListSource(TestAsset("a"), TestAsset("b")), tmp_path / "out", [16], workers=0)
    shard = tmp_path / "out" / "shards" / "shard-000000.tar"
    before = shard.stat().st_mtime_ns
    source = ListSource(TestAsset("a", tags={"caption": "a box"}), TestAsset("b", licence="CC0"))
    summary = prepare(source, tmp_path / "out", [16], workers=0)
    assert (summary.built, shard.stat().st_mtime_ns) == (0, before)
    prepare(source, tmp_path / "fresh", [16], workers=0)
    assert products(tmp_path / "out") == products(tmp_path / "fresh")
    assert ShardIndex.load(tmp_path / "out").samples[0].tags == {"caption": "a box"}


@pytest.mark.parametrize("left", ["index.jsonl", "work/ledger.0-of-1.jsonl"])
def test_other_parameters_are_found_wherever_they_are_written(tmp_path: Path, left: str) -> None:
    prepare(ProceduralSource(2), tmp_path, [16], workers=0)
    for name in ("prepare.json", "index.jsonl", "work/ledger.0-of-1.jsonl"):
        if name != left:
            (tmp_path / name).unlink()
    with pytest.raises(UserError, match="open_surface = shell|hash [0-9a-f]{16}, now") as caught:
        prepare(ProceduralSource(2), tmp_path, [16], workers=0, open_surface="winding")
    assert "\n" not in str(caught.value)
    prepare(ProceduralSource(2), tmp_path, [16], workers=0)  # those that it was made with go on


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


def test_an_out_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written to"):
            prepare(procedural(0), out, [16], workers=0)

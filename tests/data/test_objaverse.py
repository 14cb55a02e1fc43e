"""Objaverse: the real package's tables and layout, from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.objaverse_client import by_id, listing, options, reason
from tests.data.objaverse_server import V1, XL, Web, add_xl, glb, serving, uid, v1_pages, v1_path
from threed_gen.data.sources import SelectedSource, Selection, source_from
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import MeshError

pytest.importorskip("objaverse")

COUNT = 7


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Web(pages=v1_pages(COUNT))) as web:
        yield web


def test_all_of_1_0_as_the_package_lays_it_out(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = source_from("objaverse:all", options(web, tmp_path / "cache"))
    assets = list(source)
    assert len(assets) == len(source) == COUNT
    assert [a.id for a in assets] == [uid(n) for n in sorted(range(COUNT), key=v1_path)]
    tables = {f"metadata/000-{n:03d}.json.gz" for n in range((COUNT + 1) // 2)}
    tables |= {"object-paths.json.gz"}
    assert set(listing(tmp_path / "cache/hf-objaverse-v1")) == tables  # no object so far
    first = next(asset for asset in assets if asset.id == uid(1))
    assert first.licence == "CC-BY-NC"
    assert first.tags == {
        "title": "Shape 1",
        "author": "Author 1",
        "page": f"https://sketchfab.com/3d-models/{uid(1)}",
    }
    assert len(first.load().mesh.faces) > 100
    assert first.sha256() == hashlib.sha256(glb(1)).hexdigest()
    assert (tmp_path / "cache/hf-objaverse-v1" / v1_path(1)).read_bytes() == glb(1)
    assert set(web.asked.values()) == {1}  # each table and the one object, once
    assert not (tmp_path / "home").exists()
    assert capfd.readouterr().err == ""  # the package's own chatter


def test_the_package_finds_what_was_downloaded(web: Web, tmp_path: Path) -> None:
    """The cache is the package's own layout: it looks there and downloads nothing."""
    from objaverse.xl.sketchfab import SketchfabDownloader

    asset = by_id("objaverse:all", options(web, tmp_path))[uid(2)]
    asset.load()
    facts = SketchfabDownloader.get_full_annotations([uid(2)], download_dir=str(tmp_path))
    assert facts[uid(2)]["name"] == "Shape 2"
    import pandas

    row = {"fileIdentifier": f"https://sketchfab.com/3d-models/{uid(2)}", "sha256": asset.sha256()}
    found = SketchfabDownloader.download_objects(pandas.DataFrame([row]), str(tmp_path))
    assert Path(found[row["fileIdentifier"]]).read_bytes() == glb(2)


def test_lvis_categories(web: Web, tmp_path: Path) -> None:
    mugs = by_id("objaverse:lvis:mug", options(web, tmp_path))
    assert set(mugs) == {uid(n) for n in range(0, COUNT, 2)}
    assert {asset.family for asset in mugs.values()} == {"mug"}
    both = by_id("objaverse:lvis:mug, vase", options(web, tmp_path))
    assert both[uid(1)].family == "vase"
    with pytest.raises(UserError, match="'teapot' is no LVIS category .* mug, vase"):
        source_from("objaverse:lvis:teapot", options(web, tmp_path))


def test_uids_from_a_file_with_what_it_says_of_them(web: Web, tmp_path: Path) -> None:
    (tmp_path / "uids.txt").write_text(f"# mine\n{uid(3)}\n\n{uid(0)}.glb  # with its ending\nno\n")
    chosen = by_id(f"objaverse:{tmp_path}/uids.txt", options(web, tmp_path / "c"))
    assert set(chosen) == {uid(3), uid(0), "no"}
    assert reason(chosen["no"]) == "MeshError not_found"
    table = "".join(f"{uid(n)},{n},{str(n == 2).lower()}\n" for n in range(4))
    (tmp_path / "plus.csv").write_text("UID,score,is_scene\n" + table)
    rules = Selection(licences=("cc-by", "CC0 1.0"), min_score=1, exclude=("is_scene",))
    source = source_from(
        f"objaverse:{tmp_path}/plus.csv", options(web, tmp_path / "c", selection=rules)
    )
    assert isinstance(source, SelectedSource)
    (only,) = source  # 0: score, 1: CC-BY-NC, 2: a scene
    assert (only.id, only.tags["score"], only.tags["title"]) == (uid(3), 3.0, "Shape 3")
    assert source.left_out == {"score": 1, "licence": 1, "is_scene": 1}
    (tmp_path / "uids.txt").write_text(f"{uid(3)}\n{uid(3)}\n")
    with pytest.raises(UserError, match="line 2: .* also in line 1"):
        source_from(f"objaverse:{tmp_path}/uids.txt", options(web, tmp_path / "c"))


def test_xl_is_compared_with_its_hashes(web: Web, tmp_path: Path) -> None:
    good, changed, gone = (hashlib.sha256(glb(n)).hexdigest() for n in (10, 11, 12))
    web.pages["/org/repo/raw/abc123/a%20b/%23mug.glb"] = glb(10)
    web.pages["/org/repo/raw/abc123/changed.glb"] = glb(13)
    files = {good: "a b/#mug.glb", changed: "changed.glb", gone: "gone.glb"}
    rows = [
        {"sha256": sha256, "fileIdentifier": f"{web.url}/org/repo/blob/abc123/{name}"}
        for sha256, name in files.items()
    ]
    rows[0]["license"] = "MIT License"
    rows.append({**rows[0], "sha256": "e" * 64, "fileType": "blend"})  # cannot be read: not listed
    add_xl(web, "github", rows)
    assets = by_id("objaverse:xl:github", options(web, tmp_path))
    assert set(assets) == {good, changed, gone}
    assert assets[good].licence == "MIT License"
    assert len(assets[good].load().mesh.faces) > 0
    assert assets[good].sha256() == good
    assert reason(assets[changed]) == "MeshError wrong_hash"
    with pytest.raises(MeshError, match=f"{hashlib.sha256(glb(13)).hexdigest()}.*{changed}"):
        assets[changed].load()
    assert reason(assets[gone]) == "MeshError not_found"
    objects = [name for name in listing(tmp_path) if name.endswith(".glb")]
    assert objects == [f"objaverse-xl/github/{good[:2]}/{good}.glb"]


def test_xl_rows_chosen_by_a_table_like_trellis_500k(web: Web, tmp_path: Path) -> None:
    hashes = [hashlib.sha256(glb(n)).hexdigest() for n in range(4)]
    pages = [f"https://sketchfab.com/3d-models/{uid(n)}" for n in range(4)]
    table = zip(hashes, pages, strict=True)
    add_xl(web, "sketchfab", [{"sha256": h, "fileIdentifier": p} for h, p in table])
    lines = [f'{hashes[n]},{pages[n]},{n},"[""Shape {n}."", ""S""]"' for n in range(3)]
    lines.append(f"{'f' * 64},https://sketchfab.com/3d-models/unknown,9,")
    header = "sha256,file_identifier,aesthetic_score,captions\n"
    (tmp_path / "t.csv").write_text(header + "\n".join(lines) + "\n")
    rules = Selection(min_score=1)
    text = f"objaverse:xl:sketchfab:{tmp_path}/t.csv"
    assets = by_id(text, options(web, tmp_path / "c", selection=rules))
    assert set(assets) == {hashes[1], hashes[2]}
    assert assets[hashes[2]].tags["caption"] == "Shape 2."
    assert len(assets[hashes[2]].load().mesh.faces) > 0
    unknown = by_id(text, options(web, tmp_path / "c"))["f" * 64]
    assert reason(unknown) == "MeshError not_found"


def test_xl_smithsonian_and_thingiverse_addresses(web: Web, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(glb(5)).hexdigest()
    web.pages["/3d/x.glb?v=1"] = glb(5)
    add_xl(web, "smithsonian", [{"sha256": sha256, "fileIdentifier": f"{web.url}/3d/x.glb?v=1"}])
    (asset,) = source_from("objaverse:xl:smithsonian", options(web, tmp_path))
    assert len(asset.load().mesh.faces) > 0
    page = "https://www.thingiverse.com/thing:7/files?fileId=123"
    add_xl(web, "thingiverse", [{"sha256": sha256, "fileIdentifier": page, "fileType": "stl"}])
    (thing,) = source_from("objaverse:xl:thingiverse", options(web, tmp_path))
    assert getattr(thing, "url", "") == "https://www.thingiverse.com/download:123"
    with pytest.raises(UserError, match="has the parts github"):
        source_from("objaverse:xl:gitlab", options(web, tmp_path))


def test_tables_that_cannot_be_had_are_one_line(web: Web, tmp_path: Path) -> None:
    path = f"{V1}/object-paths.json.gz"
    hostile = {"a" * 32: "glbs/000-000/../../../../x.glb"}
    for page, message in (
        (b"<html>", "not a gzip or Parquet file"),
        (None, "not there .* a mirror of https://huggingface.co"),
        (b"\x1f\x8b nonsense", "not the table that it should be .* delete it"),
        (gzip.compress(json.dumps(hostile).encode()), "is no path of an object"),
    ):
        web.pages.pop(path, None)
        if page is not None:
            web.pages[path] = page
        cache = tmp_path / str(abs(hash(page)))
        with pytest.raises(UserError, match=message) as caught:
            source_from("objaverse:all", options(web, cache))
        assert "\n" not in str(caught.value)
    web.bad[f"{XL}/github/github.parquet"] = 500
    web.pages[f"{XL}/github/github.parquet"] = b""
    with pytest.raises(UserError, match="HTTP 500"):
        source_from("objaverse:xl:github", options(web, tmp_path / "xl"))


def test_without_the_package_the_cure_is_named(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "objaverse.xl.sketchfab", None)
    with pytest.raises(UserError, match=r"pip install 'threed-gen\[objaverse\]'"):
        source_from("objaverse:all", options(web, tmp_path))

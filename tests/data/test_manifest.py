"""Manifests: which columns are understood, which rows are refused, and that none leads out."""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.folders import CUBE
from threed_gen.data.source_kinds import tables
from threed_gen.data.source_kinds.columns import read_records
from threed_gen.data.source_kinds.manifest import ManifestAsset, ManifestSource, safe_id
from threed_gen.data.sources import SourceOptions, source_from
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import MeshError

HASH = hashlib.sha256(CUBE.encode()).hexdigest()
OTHER = "f" * 64


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of these rows in the format of the suffix."""
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def cube(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(CUBE)
    return name


def assets(path: Path, root: Path | None = None) -> list[ManifestAsset]:
    return list(ManifestSource(path, root))


def reason(asset: ManifestAsset) -> str:
    with pytest.raises(MeshError) as caught:
        asset.load()
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_columns_of_trellis_500k(tmp_path: Path, suffix: str) -> None:
    captions = (
        '["A mug with a handle.", "A mug."]' if suffix == ".csv" else ["A mug with a handle."]
    )
    row = {
        "sha256": HASH.upper(),
        "file_identifier": "https://github.com/a/b/blob/c/mug.off",
        "aesthetic_score": 5.75,
        "captions": captions,
        "rendered": True,
        "local_path": cube(tmp_path, "raw/mug.off"),
    }
    (asset,) = assets(write(tmp_path / f"metadata{suffix}", [row]))
    assert (asset.id, asset.source, asset.licence) == (HASH, "raw/mug.off", None)
    assert asset.tags == {
        "caption": "A mug with a handle.",
        "score": 5.75,
        "rendered": 1.0,
        "file_identifier": "https://github.com/a/b/blob/c/mug.off",
    }
    assert asset.sha256() == HASH
    assert len(asset.load().mesh.faces) == 12


def test_the_columns_of_objaverse_plus_plus(tmp_path: Path) -> None:
    row = {"UID": "a" * 32, "style": "Cartoon", "score": 3, "is_multi_object": "false"}
    row |= {"is_scene": "true", "is_transparent": 0, "is_single_color": 1, "density": "007"}
    (asset,) = assets(write(tmp_path / "t.csv", [row]))
    assert asset.id == "a" * 32
    assert asset.tags == {
        "style": "Cartoon",
        "score": 3.0,
        "is_multi_object": 0.0,
        "is_scene": 1.0,
        "is_transparent": 0.0,
        "is_single_color": 1.0,
        "density": "007",  # leading zeros: a name, not a number
    }
    assert reason(asset) == "missing"
    assert asset.stamp() == [-1]


def test_the_best_name_wins_and_the_other_stays_a_tag(tmp_path: Path) -> None:
    row = {"License": "CC-BY-4.0", "Aesthetic Score": "9", "score": "1.5", "file": "a", "path": "b"}
    (record,) = read_records(write(tmp_path / "t.csv", [row]))
    assert (record.path, record.licence) == ("b", "CC-BY-4.0")
    assert record.tags == {"aesthetic_score": 9.0, "file": "a", "score": 1.5}


def test_what_is_not_plain_is_no_tag(tmp_path: Path) -> None:
    row = {"path": "a.obj", "nested": {"x": 1}, "many": [1, 2], "nan": float("nan"), "raw": b"\0"}
    (record,) = read_records(write(tmp_path / "t.parquet", [row]))
    assert record.tags == {}


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    rows = [{"uid": f"m{i}", "path": cube(tmp_path, f"{i}.off"), "score": i / 2} for i in range(3)]
    a, b = (list(ManifestSource(write(tmp_path / f"t{s}", rows))) for s in (".csv", ".parquet"))
    assert [(x.id, x.source, x.tags) for x in a] == [(x.id, x.source, x.tags) for x in b]
    assert [x.id for x in a] == ["m0", "m1", "m2"]


def test_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [{"path": f"{name}.off"} for name in "cab"]
    one, two = write(tmp_path / "1.csv", rows), write(tmp_path / "2.csv", rows[::-1])
    keys = [[asset.source for asset in assets(path)] for path in (one, two)]
    assert keys[0] == keys[1] == ["a.off", "b.off", "c.off"]


def test_no_path_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    cube(tmp_path, "secret.off")
    cube(root, "inside/good.off")
    (root / "link.off").symlink_to(tmp_path / "secret.off")
    (root / "inner.off").symlink_to(root / "inside/good.off")
    paths = {
        "../secret.off": "outside_reference",
        "inside/../../secret.off": "outside_reference",
        str(tmp_path / "secret.off"): "outside_reference",
        "/etc/passwd": "outside_reference",
        "link.off": "outside_reference",
        "inside/nothing.off": "missing",
        "inside": "missing",
        "inside/good.off": "",
        "inner.off": "",
        str(root / "inside/../inside/good.off"): "",
    }
    table = write(root / "t.csv", [{"uid": f"u{i}", "path": p} for i, p in enumerate(paths)])
    found = {asset.path: asset for asset in assets(table)}
    for path, expected in paths.items():
        assert path == "" or (reason(found[path]) if expected else "") == expected, path
    assert found["/etc/passwd"].stamp() == [-2]  # not even looked at
    with pytest.raises(MeshError, match="leads out"):
        found["link.off"].sha256()


def test_root_is_where_paths_begin(tmp_path: Path) -> None:
    cube(tmp_path, "meshes/a.off")
    (tmp_path / "tables").mkdir()
    table = write(tmp_path / "tables/t.csv", [{"path": "a.off"}, {"path": "../meshes/a.off"}])
    source = source_from(str(table), SourceOptions(root=tmp_path / "meshes"))
    inside, outside = sorted(source, key=lambda asset: asset.source, reverse=True)
    assert len(inside.load().mesh.faces) == 12
    # It goes out and comes in again: what counts is where it ends.
    assert len(outside.load().mesh.faces) == 12
    with pytest.raises(UserError, match="--root"):
        source_from(str(table), SourceOptions(root=tmp_path / "none"))


def test_a_hash_is_verified_before_use(tmp_path: Path) -> None:
    rows = [{"sha256": h, "path": cube(tmp_path, f"{h[:2]}.off")} for h in (HASH, OTHER)]
    good, bad = sorted(assets(write(tmp_path / "t.csv", rows)), key=lambda a: a.id)
    assert good.sha256() == HASH
    assert reason(bad) == "wrong_hash"
    with pytest.raises(MeshError, match=f"{HASH}.*line 3.*{OTHER}"):
        bad.sha256()


def test_a_file_inside_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "repo.zip").write_bytes(b"PK")
    (asset,) = assets(write(tmp_path / "t.csv", [{"path": "repo.zip/a/b.off"}]))
    with pytest.raises(MeshError, match="unpack .*repo.zip first"):
        asset.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,score\na.off,1\nb.off,high\n", "line 3: score 'high' is not a number"),
        ('path,score,caption\na.off,high,"two\nlines"\n', "line 2: score"),
        ("path,sha256\na.off,12ab\n", "line 2: sha256 '12ab' is not 64"),
        ("uid,path\nx,a.off\n\ny,b.off\nx,c.off\n", "line 5: the same id 'x' as in line 2"),
        ("uid,path\nx,a.off\ny,a.off\n", "line 3: the same file 'a.off' as in line 2"),
        ("uid,path\nx,a.off,more\n", "line 2: 3 cells, but the header has 2"),
        ("path,score\n,5\n", "line 2: says neither uid"),
        ('path,caption\na.off,"two\nlines"\nb.off\n', "line 4: 1 cells"),
        ('path\n"a.off\n', "not valid CSV"),
        ("path\n\0\n", "(line 2|contains NUL|no meshes|names)"),
        ("path,path\na,b\n", "two columns are called 'path'"),
        ("colour\nred\n", "none of its columns says which mesh"),
        ("path\n", "lists no meshes"),
        ("", "empty"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        [asset.load() for asset in assets(tmp_path / "t.csv")]
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.csv").write_bytes("path\nà.off\n".encode("latin-1"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense PAR1")
    for name, message in {
        "latin.csv": "not UTF-8",
        "t.parquet": "not a readable Parquet file",
        "none.csv": "no such file",
        "t.xlsx": "no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            assets(tmp_path / name)
    monkeypatch.setattr(tables, "MAX_BYTES", 3)
    with pytest.raises(UserError, match="too large"):
        assets(tmp_path / "latin.csv")


def test_parquet_without_pyarrow_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "t.parquet", [{"path": "a.off"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'threed-gen\[parquet\]'"):
        assets(tmp_path / "t.parquet")


def test_ids_can_name_files_anywhere(tmp_path: Path) -> None:
    rows = [
        {"uid": uid} for uid in ("../../etc/x", ".hidden", "a b", "Mug", "mug", "x" * 300, "ok")
    ]
    ids = [asset.id for asset in assets(write(tmp_path / "t.csv", rows))]
    assert "ok" in ids
    assert len({name.casefold() for name in ids}) == len(rows)
    for name in ids:
        assert name == safe_id(name) and len(name) <= 120
        assert "/" not in name and not name.startswith(".")


def test_a_hostile_table_runs_nothing(tmp_path: Path) -> None:
    rows = [{"path": "=cmd|' /C calc'!A0"}, {"path": "__import__('os').system('touch x')"}]
    rows += [{"path": "file:///etc/passwd"}, {"path": "~/x.off"}, {"path": "$HOME/x.off"}]
    table = write(tmp_path / "t.csv", rows)
    assert {reason(asset) for asset in assets(table)} == {"missing"}
    assert sorted(tmp_path.iterdir()) == [table]


def test_what_the_command_line_may_say(tmp_path: Path) -> None:
    cube(tmp_path, "a.off")
    table = write(tmp_path / "t.csv", [{"path": "a.off"}])
    for text in (str(table), f"manifest:{table}"):
        assert source_from(text).describe() == {"kind": "manifest"}
    assert source_from(str(tmp_path)).describe() == {"kind": "folder"}
    assert len(source_from("procedural:3:1")) == 3
    assert len(source_from("procedural")) == 120
    for text in ("procedural:x", "procedural:", "procedural:0", "procedural:1:2:3"):
        with pytest.raises(UserError, match=r"procedural\[:COUNT"):
            source_from(text)
    with pytest.raises(UserError, match="no such folder"):
        source_from(str(tmp_path / "none"))
    with pytest.raises(UserError, match="--cache"):
        source_from("objaverse:all")
    for text in ("objaverse:", "objaverse:lvis:", "objaverse:mugs", "objaverse:xl"):
        with pytest.raises(UserError, match="expected objaverse:all"):
            source_from(text, SourceOptions(cache=tmp_path))

"""The index as columns: the same samples and choices as from objects, and damage is seen."""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.staging.sets import entry
from threed_gen.data import column_index, node_index
from threed_gen.data.column_filter import choose
from threed_gen.data.column_index import ids_of
from threed_gen.data.columns import Columns, ColumnWriter, StaleColumnsError, open_columns
from threed_gen.data.config import FilterConfig
from threed_gen.data.filter import NothingLeftError, filtered
from threed_gen.data.index import DamagedIndexError, GridEntry, SampleEntry, ShardIndex
from threed_gen.data.node_index import derived, node_folder, open_index
from threed_gen.data.rows import ColumnIndex
from threed_gen.data.shard import ShardFile
from threed_gen.errors import UserError

SHARDS = [ShardFile(f"shard-{n:06d}.tar", 10**9 + n, "ab" * 32) for n in range(3)]


def grid(number: int, tokens: int) -> GridEntry:
    return GridEntry(SHARDS[number].file, 512 * tokens, 7, "cd" * 32, tokens, 9, 0.25)


numbers = st.one_of(st.none(), st.floats(0, 1), st.integers(0, 1), st.just("much"))
tags = st.dictionaries(
    st.sampled_from(["score", "is_scene", "caption", "é"]),
    st.one_of(st.none(), st.floats(), st.booleans(), st.sampled_from(["true", "no", ""])),
)
shares = st.dictionaries(st.sampled_from(["sheet_share", "interior_share"]), numbers)


@st.composite
def sample(draw: Any) -> SampleEntry:
    info: dict[str, Any] = {}
    if draw(st.booleans()):
        info = {"grids": {r: draw(shares) for r in draw(st.sampled_from([("16",), ("16", "32")]))}}
    return entry(
        draw(st.text(min_size=1, max_size=9).filter(str.strip)),
        {r: grid(draw(st.integers(0, 2)), draw(st.integers(0, 10**12))) for r in (16, 32)},
        tags=draw(tags), info=info, split=draw(st.sampled_from(["train", "held_out"])),
        flags=tuple(draw(st.lists(st.sampled_from(["skinned", "is_scene", "x y"]), max_size=2))),
    )  # fmt: skip


some_rules = st.builds(
    FilterConfig,
    split=st.sampled_from(["all", "train", "held_out"]),
    max_sheet_share=st.sampled_from([None, 0.0, 0.5]),
    max_interior_share=st.sampled_from([None, 0.5]),
    min_score=st.sampled_from([None, 0.0, 0.5]),
    licences=st.sampled_from([None, ["CC-BY"], ["CC-BY", "CC0"]]),
    exclude_flags=st.lists(st.sampled_from(["skinned", "is_scene", "never"]), unique=True),
)
licences = st.sampled_from([None, "by", "CC BY 4.0", "CC0", "mine"])


def columns_of(samples: list[SampleEntry], folder: Path) -> Columns:
    (folder / "index.jsonl").write_bytes(ShardIndex({"a": 1}, SHARDS, samples).to_bytes())
    return open_index(folder / "index.jsonl", "index", lambda: None)


def written(samples: Sequence[SampleEntry]) -> bytes:
    """As they stand in a file: NaN is not equal to itself, and tags have no order."""
    return ShardIndex({}, SHARDS, list(samples)).to_bytes()


def cured(rules: FilterConfig, share: float | None) -> FilterConfig:
    return rules if rules.split == "all" else rules.model_copy(update={"held_out_share": share})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_and_choices_are_those_of_the_objects(data: Any) -> None:
    samples = data.draw(st.lists(sample(), min_size=1, max_size=6))
    found = [SampleEntry(**{**vars(s), "licence": data.draw(licences)}) for s in samples]
    rules = cured(data.draw(some_rules), data.draw(st.sampled_from([None, 0.4])))
    with tempfile.TemporaryDirectory() as name:
        columns = columns_of(found, Path(name))
    index = ColumnIndex(columns)
    assert written(index.samples) == written(found)
    assert list(ids_of(columns)) == [s.id for s in found]
    assert columns["tokens-32"].tolist() == [s.grids[32].tokens for s in found]
    truth = ShardIndex({"a": 1}, SHARDS, found)
    assert [index.shard_number(i, 16) for i in range(len(found))] == [
        truth.shard_number(i, 16) for i in range(len(found))
    ]
    try:
        kept, left_out = filtered(found, rules, Path("here"))
    except NothingLeftError as err:
        with pytest.raises(NothingLeftError, match=f"^{re.escape(str(err))}$"):
            choose(columns, rules, "here")
        return
    chosen, other = index.filtered(rules, "here")
    assert written(chosen.samples) == written(kept)
    assert list(other.items()) == list(left_out.items())
    assert list(chosen.samples.ids()) == [s.id for s in kept]
    assert chosen.samples.column("tokens-16").tolist() == [s.grids[16].tokens for s in kept]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that counts as large, of 1,000 samples (ten chunks)."""
    monkeypatch.setattr(node_index, "SMALL", 0)
    monkeypatch.setattr(column_index, "CHUNK", 100)
    rows = [entry(f"object {k}", {16: grid(k % 3, k)}, split="train") for k in range(1_000)]
    rows[77] = entry("odd", {16: grid(1, 77)}, split="held_out")
    ShardIndex({}, SHARDS, rows).save(tmp_path)
    return tmp_path / "index.jsonl"


def opened(index: Path, home: Path | None = None) -> Columns:
    return open_index(index, str(index), lambda: home or index.parent / "node")


def the_file(columns: Columns) -> Path:
    assert columns.path is not None
    return columns.path


def test_it_is_read_once_and_mapped_by_all(
    large: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(large)
    assert "once on this node" in capsys.readouterr().err
    monkeypatch.setattr(node_index, "convert", None)  # nobody converts again
    second = opened(large)
    assert not second["tokens-16"].flags.writeable and second["tokens-16"].base is not None
    assert second["tokens-16"].tolist() == list(range(1_000))
    index = ColumnIndex(pickle.loads(pickle.dumps(first)))
    assert len(pickle.dumps(first)) < 1000, "another process maps the file, it gets no copy"
    assert index.samples[77].id == "odd" and index.samples[-1].id == "object 999"
    assert capsys.readouterr().err == ""

    some, left_out = index.filtered(FilterConfig(split="train"), "x")
    assert len(some.samples) == 999 and left_out == {"split": 1}
    kept = some.samples.column("tokens-16")
    assert kept[76:79].tolist() == [76, 78, 79] and kept.base is not None
    assert len(pickle.dumps(some)) < 5000
    fewer = some.only({"odd", "object 3", "object 900"})
    assert [s.id for s in fewer.samples] == ["object 3", "object 900"]
    assert fewer.samples.column("shard-16").tolist() == [0, 0]


def test_a_changed_index_is_read_anew(large: Path) -> None:
    before = opened(large)
    index = ShardIndex.load(large.parent)
    ShardIndex(index.params, index.shards, index.samples[:5]).save(large.parent)
    after = opened(large)
    assert len(after["split"]) == 5 and len(before["split"]) == 1_000
    os.utime(large, ns=(1, 1))  # the same bytes at another time: cheap to doubt
    assert the_file(opened(large)) != the_file(after)


@pytest.mark.parametrize("damage", ["torn", "column", "header", "empty", "other"])
def test_a_damaged_copy_is_made_anew(
    large: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = opened(large)
    tokens, file = truth["tokens-16"].tolist(), the_file(truth)
    content = bytearray(file.read_bytes())
    if damage == "column":
        at = content.index(np.arange(900, 910).tobytes())
        content[at] ^= 1
    elif damage == "header":
        content[80] ^= 1
    elif damage == "torn":
        del content[-5000:]
    elif damage == "empty":
        content.clear()
    replacement = file.with_name("new")
    replacement.write_bytes(content)
    if damage == "other":
        with ColumnWriter(None) as writer:
            writer.write("split", np.zeros(3, np.uint8))
            writer.save(replacement, "another key")
    replacement.replace(file)
    capsys.readouterr()
    again = opened(large)
    assert again["tokens-16"].tolist() == tokens
    assert "made anew" in capsys.readouterr().err


def test_a_damaged_row_is_named_when_it_is_used(large: Path) -> None:
    file = the_file(opened(large))
    content = bytearray(file.read_bytes())
    content[content.index(b'"object 432"') + 9] ^= 1
    file.with_name("new").write_bytes(content)
    file.with_name("new").replace(file)
    index = ColumnIndex(opened(large))
    assert index.samples[431].id == "object 431"
    with pytest.raises(UserError, match=r"was damaged \(sample 432\); delete the file"):
        index.samples[432]


def test_a_damaged_index_has_the_same_errors(large: Path) -> None:
    content = large.read_bytes()
    for bad, words in (
        (content.replace(b"object 500", b"object 501"), "its checksum differs"),
        (content[:-10], "its checksum differs"),
        (b"x" + content, "first line does not say"),
        (content.replace(b'"version":1', b'"version":2', 1), "written in format version 2"),
    ):
        large.write_bytes(bad)
        with pytest.raises(UserError, match=words):
            opened(large)
    assert not list((large.parent / "node").rglob("*.columns"))
    assert not list((large.parent / "node").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"16":', '"24":', "lacks resolution 16"),
        ("shard-000002", "shard-000009", "not listed"),
        ('"tokens":5,', f'"tokens":{10**30},', "OverflowError"),
        ('"tokens":5,', '"tokens":"5",', "tokens"),
    ],
)
def test_nonsense_under_a_right_checksum(tmp_path: Path, old: str, new: str, words: str) -> None:
    import hashlib

    rows = [entry(f"{k}", {16: grid(k % 3, k)}) for k in range(6)]
    ShardIndex({}, SHARDS, rows).save(tmp_path)
    file = tmp_path / "index.jsonl"
    first, table, *lines = file.read_text().splitlines(keepends=True)
    lines[5] = lines[5].replace(old, new)
    body = "".join([table, *lines])
    head = {**json.loads(first), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    file.write_text(json.dumps(head) + "\n" + body)
    with pytest.raises(DamagedIndexError, match=words):
        open_index(file, "x", lambda: None)


def test_no_place_for_a_copy_is_said_once(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    for _ in range(2):
        columns = open_index(large, "x", lambda: node_folder(str(blocked)))
        assert columns.path is None and columns["tokens-16"].tolist() == list(range(1_000))
    told = capsys.readouterr().err
    assert told.count("every process reads the data's index") == 1 and "data.stage.dir" in told
    assert ColumnIndex(columns).filtered(FilterConfig(split="train"), "x")[1] == {"split": 1}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "index").write_text("in the way")
    assert open_index(large, "x", lambda: tmp_path / "home").path is None


def test_copies_that_nobody_uses_are_deleted(large: Path) -> None:
    file = the_file(opened(large))
    old = file.with_name("old.columns")
    old.write_bytes(b"")
    os.utime(old, (1, 1))
    os.utime(file, (1, 1))
    opened(large)
    assert not old.exists() and file.exists()


def test_what_follows_from_columns_is_made_once(large: Path) -> None:
    columns, made = opened(large), []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"values": columns["tokens-16"] * 2}

    for _ in range(2):
        assert derived(columns, "twice", make)["values"][9] == 18
    assert len(made) == 1
    with pytest.raises(StaleColumnsError):
        open_columns(the_file(columns), "twice")

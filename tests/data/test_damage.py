"""Shards and index under 100 random mutations: each is named, or the samples are the same."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from tests.data.fields import same_field
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import DamagedIndexError, ShardIndex, parse_index
from threed_gen.data.inspect import verify
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.prepare import prepare
from threed_gen.data.shard import read_member
from threed_gen.data.sources import ProceduralSource
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import SparseSDF

MUTATIONS = 100


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(ProceduralSource(6), out, [16, 32], workers=0, shard_bytes=30_000)
    return out


def _read_all(data: Path) -> dict[tuple[str, int], SparseSDF]:
    dataset = SDFDataset(data)
    return {
        (dataset.entry(i).id, r): dataset.load(i, r)
        for i in range(len(dataset))
        for r in dataset.index.resolutions
    }


def _mutate(rng: random.Random, file: Path) -> str:
    content = bytearray(file.read_bytes())
    a, b = sorted(rng.sample(range(len(content)), 2))
    kind = rng.choice(["bit", "byte", "cut", "zero", "delete", "swap", "repeat", "append", "gone"])
    if kind == "bit":
        content[a] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[a] = rng.randrange(256)
    elif kind == "cut":
        del content[a:]
    elif kind == "zero":
        content[a : a + 64] = bytes(len(content[a : a + 64]))
    elif kind == "delete":
        del content[a : min(b, a + 600)]
    elif kind == "swap":
        size = min(512, (len(content)) // 3, b - a, len(content) - b)
        content[a : a + size], content[b : b + size] = (
            content[b : b + size],
            content[a : a + size],
        )
    elif kind == "repeat":
        content[b:b] = content[a : min(b, a + 512)]
    elif kind == "append":
        content += bytes(512)
    if kind == "gone":
        file.unlink()
    else:
        file.write_bytes(content)
    return f"{kind} of {file.name} at {a}"


def _outcome(data: Path) -> tuple[dict[tuple[str, int], SparseSDF] | None, str]:
    """All samples, or the one line that says why not; any other exception fails the test."""
    try:
        return _read_all(data), ""
    except UserError as err:
        return None, str(err)


def test_random_mutations_are_named_or_harmless(data: Path, tmp_path: Path) -> None:
    truth, index = _read_all(data), ShardIndex.load(data)
    names = {"index.jsonl", *(file.name for file in (data / "shards").iterdir())}
    assert len(names) > 3
    rng = random.Random(2026)
    named = harmless = 0
    for number in range(MUTATIONS):
        copy = tmp_path / str(number)
        shutil.copytree(data, copy)
        shards = sorted((copy / "shards").iterdir())
        what = _mutate(rng, rng.choice([copy / "index.jsonl", *shards]))
        found, message = _outcome(copy)
        if found is None:
            named += 1
            assert "\n" not in message, what
            assert any(name in message for name in names), f"{what}: {message}"
            assert "prepare" in message or "update" in message, f"{what}: no cure in: {message}"
        else:
            harmless += 1
            assert ShardIndex.load(copy) == index, what
            assert found.keys() == truth.keys(), what
            assert all(same_field(found[key], truth[key]) for key in truth), what
        shutil.rmtree(copy)
    assert named > 60
    assert harmless > 0


def test_a_damaged_sample_is_named_with_its_shard_and_no_other_is_lost(
    data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    grid = SDFDataset(copy).entry(1).grids[32]
    path = copy / "shards" / grid.shard
    content = bytearray(path.read_bytes())
    content[grid.offset + grid.size // 2] ^= 1
    path.write_bytes(content)
    dataset = SDFDataset(copy)
    with pytest.raises(CorruptSampleError, match=rf"{grid.shard}.*'chair_0000'.*32.*sha256"):
        dataset.load(1, 32)
    dataset.load(1, 16)
    dataset.load(0, 32)
    with pytest.raises(UserError, match=grid.shard):
        verify(copy)
    verify(data)
    path.unlink()  # the cure that the message gives
    prepare(ProceduralSource(6), copy, [16, 32], workers=0, shard_bytes=30_000)
    verify(copy)
    assert (copy / "index.jsonl").read_bytes() == (data / "index.jsonl").read_bytes()


def test_a_damaged_tail_of_a_tar_is_found_by_verify_alone(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    path = min((copy / "shards").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert _read_all(copy).keys() == _read_all(data).keys()
    with pytest.raises(UserError, match=path.name):
        verify(copy)


def test_a_shard_of_the_wrong_size_is_named_when_the_data_is_opened(
    data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    path = max((copy / "shards").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{path.name}: has \d+ bytes, not \d+"):
        SDFDataset(copy)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: is missing"):
        SDFDataset(copy)


def test_two_samples_that_changed_places_are_not_taken_for_each_other(data: Path) -> None:
    a, b = (entry.grids[16] for entry in SDFDataset(data).index.samples[:2])
    with pytest.raises(CorruptSampleError):
        read_member(data / "shards" / b.shard, b.offset, b.size, a.sha256)


def _signed(first: dict[str, object], body: bytes) -> bytes:
    head = {**first, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body


def test_indexes_of_other_versions(data: Path) -> None:
    content = (data / "index.jsonl").read_bytes()
    first, _, body = content.partition(b"\n")
    head = json.loads(first)
    with pytest.raises(UserError, match=r"somewhere: .*version 2.*reads version 1.*update") as err:
        parse_index(_signed({**head, "version": 2}, body), "somewhere")
    assert not isinstance(err.value, DamagedIndexError)  # prepare must not overwrite it
    rows = body.splitlines(keepends=True)
    row = {**json.loads(rows[1]), "caption": "a mug", "views": [1, 2]}
    later = rows[0] + json.dumps(row).encode() + b"\n" + b"".join(rows[2:])
    more = parse_index(_signed({**head, "made_by": "later"}, later), "x")
    assert more == parse_index(content, "x")
    assert more.to_bytes() == content


def test_prepare_leaves_the_data_of_a_newer_version_alone(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    content = (copy / "index.jsonl").read_bytes()
    newer = content.replace(b'"version":1', b'"version":2', 1)
    (copy / "index.jsonl").write_bytes(newer)
    with pytest.raises(UserError, match="update"):
        prepare(ProceduralSource(6), copy, [16, 32], workers=0, shard_bytes=30_000)
    assert (copy / "index.jsonl").read_bytes() == newer


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"tau":0.25', b'"tau":"x"', "'tau' should be float"),
        (b'"offset":512', b'"offset":5.5', "'offset' should be int"),
        (b'"tokens"', b'"token"', "KeyError"),
        (b'"grids":{"16"', b'"grids":{"sixteen"', "ValueError"),
        (b'"shard":"shard-000000.tar"', b'"shard":"../../etc/passwd"', "not listed"),
        (b"{", b"[", "damaged"),
    ],
)
def test_a_wellformed_index_with_nonsense_in_it(
    data: Path, old: bytes, new: bytes, words: str
) -> None:
    content = (data / "index.jsonl").read_bytes()
    first, _, body = content.partition(b"\n")
    rows = body.splitlines(keepends=True)
    rows[1] = rows[1].replace(old, new, 1)
    with pytest.raises(DamagedIndexError, match=words):
        parse_index(_signed(json.loads(first), b"".join(rows)), "x")
    with pytest.raises(DamagedIndexError, match="should list"):
        parse_index(_signed(json.loads(first), b"".join(body.splitlines(True)[:-1])), "x")


def test_a_missing_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.jsonl.*threed-gen prepare"):
        ShardIndex.load(tmp_path)


@pytest.mark.parametrize(
    "old", [b"CC0-1.0", b'"voxels":', b'"family":"mug"', b'"int8"', b"procedural/"]
)
def test_every_byte_of_the_index_is_under_its_checksum(data: Path, old: bytes) -> None:
    content = bytearray((data / "index.jsonl").read_bytes())
    content[content.index(old) + len(old) // 2] ^= 1
    with pytest.raises(DamagedIndexError, match="its checksum differs"):
        parse_index(bytes(content), "x")

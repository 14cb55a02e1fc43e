"""`SDFDataset` at a URL and with staging: the samples of the folder, bit for bit."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.fields import random_field, same_field
from tests.data.staging.ranges import serving
from tests.data.staging.sets import entry
from threed_gen.data.config import FilterConfig, RemoteConfig, StageConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import GridEntry, ShardIndex
from threed_gen.data.payload import CorruptSampleError, encode_payload
from threed_gen.data.shard import member_name, write_shard
from threed_gen.errors import UserError

QUICK = RemoteConfig(tries=2, timeout=5.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six real samples in three shards."""
    rng, out = np.random.default_rng(2), tmp_path / "data"
    shards, samples = [], []
    for number in range(3):
        fields = [random_field(rng, 3 + number + k) for k in range(2)]
        blobs = [encode_payload(field) for field in fields]
        ids = [f"s{number}{k}" for k in range(2)]
        pairs = [(member_name(n, 64), b) for n, b in zip(ids, blobs, strict=True)]
        shard, placed = write_shard(out / "shards", number, pairs)
        shards.append(shard)
        for name, field, blob, at in zip(ids, fields, blobs, placed, strict=True):
            digest = hashlib.sha256(blob).hexdigest()
            sizes = field.num_bricks, field.num_voxels, field.tau
            grid = GridEntry(shard.file, at.offset, at.size, digest, *sizes)
            samples.append(entry(name, {64: grid}))
    samples[4] = replace(samples[4], split="held_out")
    ShardIndex({"source": {"kind": "folder"}}, shards, samples).save(out)
    return out


def remote(url: str, data: Path, rules: FilterConfig | None = None) -> SDFDataset:
    stage = StageConfig(dir=str(data.parent / "node"), ahead=1)
    return SDFDataset(url, rules=rules, remote=QUICK, stage=stage)


def test_a_url_gives_what_the_folder_gives(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = SDFDataset(data)
    with serving(data) as server:
        there = remote(server.url, data)
        again = remote(server.url + "/", data)
        assert capsys.readouterr().err.count("once on this node") == 1
        index = [r for r in server.requests if r[0] == "/index.jsonl"]
        whole = (data / "index.jsonl").stat().st_size
        assert [size for _, _, size in index] == [256, whole, 256], "read once, then recognised"
        assert there.index == here.index and again.index == here.index
        assert there.token_counts(64).tolist() == here.token_counts(64).tolist()
        assert there.shard_numbers(64).tolist() == here.shard_numbers(64).tolist()
        server.requests.clear()
        assert all(same_field(there.load(i, 64), here.load(i, 64)) for i in range(6))
        grids = [here.entry(i).grids[64] for i in range(6)]
        assert server.requests == [(f"/shards/{g.shard}", g.offset, g.size) for g in grids]
        copy = pickle.loads(pickle.dumps(there))
        assert same_field(copy.load(5, 64), here.load(5, 64))
        train = remote(server.url, data, FilterConfig(split="train"))
        held_out = train.for_validation()
        assert (len(train), held_out.entry(0).id) == (5, "s20")
        assert same_field(held_out.load(0, 64), here.load(4, 64))
    assert SDFDataset(f"file://{data}").load(0, 64).num_bricks == here.load(0, 64).num_bricks


def _bricks(dataset: SDFDataset) -> int:
    return dataset.load(0, 64).num_bricks


def test_a_loaders_process_reads_for_itself(data: Path) -> None:
    with serving(data) as server:
        there = remote(server.url, data)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(_bricks, [there]) == [SDFDataset(data).load(0, 64).num_bricks]


def test_staging_follows_the_plan(data: Path) -> None:
    with serving(data) as server:
        there, here = remote(server.url, data), SDFDataset(data)
        batches = [[0, 1], [5], [2]]
        staging = there.staging(lambda step: batches[step], len(batches))
        assert staging is not None
        staging.at(0)  # `ahead: 1`: of steps 0 and 1
        end = time.monotonic() + 60
        while staging.stager.counts["staged"] < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        asked = len(server.requests)
        assert all(same_field(there.load(i, 64), here.load(i, 64)) for i in (0, 1, 5))
        assert len(server.requests) == asked and there.source.counts == {"staged": 3}
        there.load(2, 64)
        assert there.source.counts == {"staged": 3, "direct": 1}
        assert re.search(r"bytes [\d,]+, direct 1, requests \d+, staged 3$", there.source.told())
        staging.close()
    assert here.staging(lambda step: batches[step]) is None


def test_faults_at_a_url_are_one_line(data: Path) -> None:
    with serving(data) as server:
        with pytest.raises(UserError, match=r"/nowhere/index\.jsonl: no such file there"):
            remote(f"{server.url}/nowhere", data)
        there = remote(server.url, data)
        server.always = "die"
        with pytest.raises(UserError, match=r"shard-000000\.tar: cannot be read.*after 2 tries"):
            there.load(0, 64)
        server.always = "wrong"
        with pytest.raises(UserError, match=r"shard-000000\.tar.*sha256 differs"):
            there.load(0, 64)
        (data / "shards" / "shard-000002.tar").unlink()
        server.always = ""
        with pytest.raises(UserError, match=r"shard-000002\.tar: no such file there"):
            there.load(5, 64)


def test_a_damaged_index_at_a_url_is_not_kept(data: Path) -> None:
    index = data / "index.jsonl"
    good = index.read_bytes()
    index.write_bytes(good[:-3] + b"9" + good[-2:])
    with serving(data) as server:
        with pytest.raises(UserError, match=rf"{server.url}/index\.jsonl: the index is damaged"):
            remote(server.url, data)
        index.write_bytes(good)
        assert len(remote(server.url, data)) == 6


def test_a_truncated_local_shard_is_still_named(data: Path) -> None:
    there = SDFDataset(data)
    file = data / "shards" / "shard-000001.tar"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CorruptSampleError, match=r"shard-000001\.tar: sample 's11' at resolution"):
        there.load(3, 64)
    with pytest.raises(UserError, match=r"shard-000001\.tar: has 1000 bytes"):
        SDFDataset(data)

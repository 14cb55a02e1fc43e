"""Cached latents belong to the samples that they are asked for, or say why there are none."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.latents.sets import made_up, make_data, params_for, same_latent
from threed_gen.config import validate
from threed_gen.data.config import FilterConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import ShardIndex
from threed_gen.data.latents.config import LatentsConfig
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.latents.latent import Latent
from threed_gen.data.latents.reader import CachedLatents
from threed_gen.data.latents.statistics import LatentStatistics, Moments
from threed_gen.data.latents.writer import write_latents
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.table import table_bytes
from threed_gen.errors import UserError

COUNT = 10


def with_a_nan(dataset: SDFDataset) -> Callable[[int, int], Latent]:
    def encode(i: int, resolution: int) -> Latent:
        latent = made_up(dataset, i, resolution)
        if dataset.entry(i).id == "s3":
            latent.mean[0, 0] = np.nan
        return latent

    return encode


@pytest.fixture
def data(tmp_path: Path) -> SDFDataset:
    return make_data(tmp_path / "data", COUNT)


@pytest.fixture
def folder(tmp_path: Path, data: SDFDataset) -> Path:
    write_latents(tmp_path / "out", data, params_for(data), with_a_nan(data))
    return tmp_path / "out"


def subset(data: SDFDataset, split: Any) -> SDFDataset:
    return SDFDataset(data.path, data.tau, FilterConfig(split=split))


def test_every_sample_comes_back_by_its_id(data: SDFDataset, folder: Path) -> None:
    for split in ("all", "held_out"):
        dataset = subset(data, split)
        latents = pickle.loads(pickle.dumps(CachedLatents(folder, dataset)))
        names = [dataset.entry(i).id for i in range(len(dataset))]
        assert list(latents.missing) == [name for name in names if name == "s3"]
        for i, name in enumerate(names):
            for resolution in (32, 64):
                if name != "s3":
                    expected = made_up(dataset, i, resolution)
                    assert same_latent(latents.load(i, resolution), expected)
        assert latents.channels == 3
    assert names == ["s8", "s9"]


def test_a_rejected_sample_says_why(data: SDFDataset, folder: Path) -> None:
    latents = CachedLatents(folder, data)
    assert latents.told() == "rejected (not_finite) 1"
    with pytest.raises(UserError, match=r"sample 's3' has no latent: rejected \(not_finite\)"):
        latents.load(3, 32)


def test_statistics_are_those_of_the_chosen_samples(data: SDFDataset, folder: Path) -> None:
    """To the last bit, whatever else was encoded, so that on the fly gives the same."""
    for split, resolutions in (("train", (32, 64)), ("held_out", (64,)), ("all", (32,))):
        dataset = subset(data, split)
        chosen = [i for i in range(len(dataset)) if dataset.entry(i).id != "s3"]
        latents = [made_up(dataset, i, r) for i in chosen for r in resolutions]
        for draw in ("mode", "sample"):
            found = CachedLatents(folder, dataset, draw, resolutions).statistics  # type: ignore[arg-type]
            wanted = LatentStatistics.of(
                [Moments.of(x.mean, x.logvar) for x in latents],
                draw,  # type: ignore[arg-type]
            )
            assert found.to_json() == wanted.to_json()


def test_another_choice_keeps_the_statistics(data: SDFDataset, folder: Path) -> None:
    train = CachedLatents(folder, subset(data, "train"))
    held_out = subset(data, "held_out")
    other = train.over(held_out)
    assert other.statistics is train.statistics
    assert other.missing == {}
    assert same_latent(other.load(1, 64), made_up(held_out, 1, 64))
    assert same_latent(train.load(1, 64), made_up(data, 1, 64))  # the first is as it was


def test_samples_that_were_not_encoded_are_named(data: SDFDataset, tmp_path: Path) -> None:
    train = subset(data, "train")
    write_latents(tmp_path / "out", train, params_for(train), with_a_nan(train))
    latents = CachedLatents(tmp_path / "out", data)
    assert sorted(latents.missing) == ["s3", "s8", "s9"]
    assert latents.told() == "not encoded 2, rejected (not_finite) 1"
    with pytest.raises(UserError, match="'s9' has no latent: not encoded.*split"):
        latents.load(9, 32)
    with pytest.raises(UserError, match="of none of the 2 samples.*--split all"):
        CachedLatents(tmp_path / "out", subset(data, "held_out"))
    with pytest.raises(UserError, match="--split all"):
        latents.over(subset(data, "held_out"))


def test_only_the_mode_was_stored(data: SDFDataset, tmp_path: Path) -> None:
    def encode(i: int, resolution: int) -> Latent:
        return made_up(data, i, resolution)

    write_latents(tmp_path / "out", data, params_for(data, store="mode", values="fp16"), encode)
    latent = CachedLatents(tmp_path / "out", data).load(4, 64)
    assert latent.logvar is None
    np.testing.assert_allclose(latent.mean, encode(4, 64).mean, rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="--store posterior"):
        CachedLatents(tmp_path / "out", data, "sample")


def test_what_does_not_belong_together_is_refused(
    data: SDFDataset, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no latents at resolution 128 \(encoded: 32, 64\)"):
        CachedLatents(folder, data, resolutions=[64, 128])
    with pytest.raises(UserError, match="at resolution 128"):
        CachedLatents(folder, data).load(0, 128)
    with pytest.raises(UserError, match=r"data\.tau = None, this run has data\.tau = 0\.2"):
        CachedLatents(folder, SDFDataset(data.path, 0.2))
    with pytest.raises(UserError, match="threed-gen encode"):
        CachedLatents(tmp_path / "nowhere", data)
    samples = [replace(sample, licence="CC0") for sample in data.index.samples]
    ShardIndex({}, data.index.shards, samples).save(data.path)
    with pytest.raises(UserError, match="another state of the data.*encode again"):
        CachedLatents(folder, SDFDataset(data.path))


def test_another_number_of_tokens_is_refused(data: SDFDataset, folder: Path) -> None:
    index = LatentIndex.load(folder)
    grid = index.samples[2].grids[64]
    index.samples[2].grids[64] = replace(grid, tokens=grid.tokens + 1)
    index.save(folder)
    with pytest.raises(UserError, match="sample 's2' has 23 tokens at resolution 64, and 22 in"):
        CachedLatents(folder, data)


def test_damage_is_named(data: SDFDataset, folder: Path) -> None:
    latents = CachedLatents(folder, data)
    grid = LatentIndex.load(folder).samples[0].grids[64]
    shard = folder / "latents" / grid.shard
    content = bytearray(shard.read_bytes())
    content[grid.offset + 40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match="latent of sample 's0' at resolution 64.*sha256"):
        latents.load(0, 64)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"{grid.shard}: has {len(content) - 1} bytes, not"):
        CachedLatents(folder, data)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{grid.shard}: is missing.*encode"):
        CachedLatents(folder, data)


def test_a_damaged_index_is_named(data: SDFDataset, folder: Path) -> None:
    path = folder / "latents.jsonl"
    whole = path.read_bytes()
    first, table, *rows = whole.splitlines(keepends=True)
    cases = [
        (whole.replace(b'"tokens":2', b'"tokens":3', 1), "checksum differs"),
        (b"", "first line|Expecting"),
        (whole[: len(whole) // 2], "checksum differs"),
        (first.replace(b"latents", b"index") + table, "first line does not say"),
        (first.replace(b'"version":1', b'"version":2') + table, "version 2.*update"),
    ]
    for content, words in cases:
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"latents\.jsonl: .*({words})"):
            CachedLatents(folder, data)
    row = json.loads(rows[1])
    row["grids"]["32"]["moments"] = "AAAA"
    others = [json.loads(line) for line in (rows[0], *rows[2:])]
    path.write_bytes(table_bytes("threed-gen latents", 1, json.loads(table), [row, *others]))
    with pytest.raises(UserError, match=r"latents\.jsonl: moments of 3 bytes.*encode"):
        CachedLatents(folder, data)


def test_the_config_wants_one_of_the_two() -> None:
    assert validate(LatentsConfig, {"path": "latents/"}, "x.yaml").draw == "mode"
    with pytest.raises(UserError, match=r"x\.yaml: give latents\.path.*or latents\.run"):
        validate(LatentsConfig, {"draw": "mode"}, "x.yaml")
    with pytest.raises(UserError, match="unknown key 'drow', did you mean 'draw'"):
        validate(LatentsConfig, {"path": "x", "drow": "mode"}, "x.yaml")

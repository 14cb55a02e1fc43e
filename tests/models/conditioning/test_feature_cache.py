"""Features on disk: given back to the bit, keyed by all that matters, whole or not at all."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch

from threed_gen.errors import DiskError, UserError
from threed_gen.models.conditioning.feature_cache import FeatureCache, open_cache


def content(seed: int = 0, count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=draw)
    return features, torch.arange(count) * 3


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_was_stored_comes_back(tmp_path: Path, precision: str) -> None:
    cache = FeatureCache(tmp_path, "encoder", precision)  # type: ignore[arg-type]
    features, tokens = content()
    key = cache.key("picture", None)
    assert cache.load(key) is None
    cache.store(key, features, tokens)
    found = cache.load(key)
    assert found is not None
    assert torch.equal(found[0], cache.rounded(features))
    assert (found[0].dtype == torch.float32) == (precision == "fp32")
    assert torch.equal(found[1], tokens)
    assert found[1].dtype == torch.int64
    (path,) = tmp_path.rglob("*.*")  # two levels of folders, and nothing left over
    assert path == cache.path(key)
    assert path.relative_to(tmp_path).parts[:2] == (key[:2], key[2:4])


def test_no_tokens_at_all(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    cache.store("0" * 64, *content(count=0))
    found = cache.load("0" * 64)
    assert found is not None
    assert found[0].shape == (0, 6)


def test_key_is_of_picture_variant_encoder_and_precision(tmp_path: Path) -> None:
    keys = [
        FeatureCache(tmp_path, encoder, precision).key(picture, variant)
        for encoder in ("a", "b")
        for precision in ("fp16", "fp32")
        for picture in ("x", "y")
        for variant in (None, 0, 1)
    ]
    assert len(set(keys)) == 24
    assert FeatureCache(tmp_path / "elsewhere", "a").key("x", 1) == keys[2]


def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    key = cache.key("picture", 3)
    cache.store(key, *content())
    path = cache.path(key)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for broken in (
        b"",
        whole[:-10],
        whole[:20],
        bytes(flipped),
        whole.replace(b"tokens", b"tokenz"),
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged features .*; delete it") as caught:
            cache.load(key)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.unlink()
    assert cache.load(key) is None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, "encoder")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError):
        cache.store("1" * 64, *content())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="condition.cache: .*file/x cannot be made"):
        open_cache(str(tmp_path / "file" / "x"), "encoder", "fp16")


def write_often(folder: Path, seed: int, start: multiprocessing.synchronize.Barrier) -> None:
    cache = FeatureCache(folder, "encoder", "fp32")
    start.wait(30)
    for _ in range(40):
        cache.store("2" * 64, *content(seed, count=500))
        found = cache.load("2" * 64)  # of either writer, but whole: the checksum holds
        assert found is not None
        assert found[0].shape == (500, 6)


def test_two_processes_may_write_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    both = [context.Process(target=write_often, args=(tmp_path, s, barrier)) for s in (1, 2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    found = FeatureCache(tmp_path, "encoder", "fp32").load("2" * 64)
    assert found is not None
    assert any(torch.equal(found[0], content(seed, count=500)[0]) for seed in (1, 2))


def test_it_goes_to_a_worker(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "encoder")
    assert pickle.loads(pickle.dumps(cache)) == cache

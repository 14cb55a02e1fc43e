"""Latents of a frozen SS-VAE: in the order of the bricks, the same on the fly and from a folder."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.data.fields import random_field
from tests.data.latents.sets import make_data, products, same_latent
from tests.training import vae_runs
from threed_gen import cli
from threed_gen.data.batch import collate
from threed_gen.data.config import FilterConfig
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import LatentIndex
from threed_gen.data.latents.latent import Latent, NotFiniteError
from threed_gen.data.latents.reader import CachedLatents
from threed_gen.data.latents.source import x0_of
from threed_gen.errors import UserError
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.randomness import generator
from threed_gen.training.encode import (
    EncodedLatents,
    FrozenVAE,
    encode_dataset,
    encode_one,
    steady_arithmetic,
)

TINY = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=3, encoder_blocks=1,
    decoder_blocks=1, heads=2, norm_groups=4, mean_head_init="xavier", initial_logvar=-4.0,
)  # fmt: skip


def write_run(root: Path, step: int = 5, change: Callable[[SSVAE], object] | None = None) -> Path:
    return vae_runs.write_run(root, TINY, [32, 64], step, change)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "vae")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SDFDataset:
    return make_data(tmp_path_factory.mktemp("data"), 5)


def test_tokens_are_in_the_order_of_the_bricks() -> None:
    """Against a look-up by coordinates in what the encoder said, in whatever order it said it."""
    torch.manual_seed(0)
    model = SSVAE(TINY).eval()
    sdf = random_field(np.random.default_rng(1), 60, 128)
    latent = encode_one(model, sdf, "cpu")
    with torch.no_grad():
        posterior = model.encode(collate([sdf]).inputs)
    coords = posterior.mean.grid.coords[:, 1:].tolist()
    assert coords != sdf.bricks.tolist()  # else this test would show nothing
    said = {
        tuple(xyz): (mean, logvar)
        for xyz, mean, logvar in zip(
            coords, posterior.mean.feats.tolist(), posterior.logvar.feats.tolist(), strict=True
        )
    }
    assert latent.logvar is not None
    np.testing.assert_array_equal(latent.bricks, sdf.bricks)
    for brick, mean, logvar in zip(latent.bricks, latent.mean, latent.logvar, strict=True):
        assert said[tuple(brick.tolist())] == (mean.tolist(), logvar.tolist())
    assert (latent.mean.dtype, latent.resolution) == (np.float32, 128)
    assert len(np.unique(latent.mean[:, 0])) == 60


def test_the_mean_of_the_latent_is_what_the_decoder_takes(run: Path, data: SDFDataset) -> None:
    """Through the same weights as `load_run` gives, of the kind that was asked for."""
    ema, model = FrozenVAE(run, "ema", "cpu"), FrozenVAE(run, "model", "cpu")
    assert ema.weights_sha256 != model.weights_sha256
    torch.manual_seed(5)
    expected = encode_one(SSVAE(TINY).eval(), data.load(0, 64), "cpu")
    assert same_latent(ema.encode(data.load(0, 64)), expected)
    assert not np.array_equal(model.encode(data.load(0, 64)).mean, expected.mean)
    assert not any(p.requires_grad and p.grad is not None for p in ema.model.parameters())


@pytest.mark.parametrize("draw", ["mode", "sample"])
def test_on_the_fly_equals_cached_to_the_last_bit(
    run: Path, data: SDFDataset, tmp_path: Path, draw: Any
) -> None:
    vae = FrozenVAE(run, device="cpu")
    encode_dataset(vae, data, tmp_path, [64, 32], shard_bytes=20_000)
    train = SDFDataset(data.path, rules=FilterConfig(split="train"))
    cached = CachedLatents(tmp_path, train, draw, [32, 64])
    fresh = EncodedLatents(vae, train, [32, 64], draw)
    assert cached.statistics.to_json() == fresh.statistics.to_json()
    assert cached.channels == fresh.channels == 3
    for i in range(len(train)):
        for resolution in (32, 64):
            a, b = cached.load(i, resolution), fresh.load(i, resolution)
            assert same_latent(a, b)
            for key in (None, i):  # mode, and draw
                x0 = [
                    x0_of(x, s, None if key is None else generator(0, 1, "latent", key))
                    for x, s in ((a, cached.statistics), (b, fresh.statistics))
                ]
                assert torch.equal(*x0)
    held_out = SDFDataset(data.path, rules=FilterConfig(split="held_out"))
    assert fresh.over(held_out).statistics is fresh.statistics
    assert same_latent(fresh.over(held_out).load(0, 32), cached.over(held_out).load(0, 32))


def test_threads_do_not_change_a_bit() -> None:
    """More of them do change what the bare model says of a large shape (2 threads: 1e-6)."""
    torch.manual_seed(0)
    model = SSVAE(TINY).eval()
    sdf = random_field(np.random.default_rng(3), 300, 128)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(encode_one(model, sdf, "cpu"))
            assert torch.get_num_threads() == threads  # put back
    finally:
        torch.set_num_threads(before)
    assert same_latent(*found)
    for flush in (True, False):
        torch.set_flush_denormal(flush)
        with steady_arithmetic():
            assert torch.get_num_threads() == 1
            assert float(torch.tensor(1e-40) * 1) == 0
        assert (float(torch.tensor(1e-40) * 1) == 0) == flush  # put back


class _Latents(Dataset[Latent]):
    def __init__(self, source: EncodedLatents) -> None:
        self.source = source

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Latent:
        return self.source.load(i, 32)


def test_a_loaders_worker_says_the_same(run: Path, data: SDFDataset) -> None:
    """Pickled it carries no weights, and loads those of the same checkpoint."""
    source = EncodedLatents(FrozenVAE(run, device="cpu"), data, [32])
    assert len(pickle.dumps(source)) < 20_000
    back = pickle.loads(pickle.dumps(source))
    assert back.statistics.to_json() == source.statistics.to_json()
    assert same_latent(back.load(1, 32), source.load(1, 32))


@pytest.mark.long
def test_a_real_worker_says_the_same(run: Path, data: SDFDataset) -> None:
    source = EncodedLatents(FrozenVAE(run, device="cpu"), data, [32])
    spawn = multiprocessing.get_context("spawn")
    loader = DataLoader(
        _Latents(source), batch_size=None, num_workers=1, multiprocessing_context=spawn
    )
    for i, latent in enumerate(loader):
        assert same_latent(latent, source.load(i, 32))


def test_weights_that_changed_meanwhile_are_an_error(tmp_path: Path, data: SDFDataset) -> None:
    root = write_run(tmp_path / "vae", 5)
    vae = pickle.loads(pickle.dumps(FrozenVAE(root, device="cpu")))
    write_run(root, 9)
    with pytest.raises(UserError, match="is now step 9, latents are those of step 5"):
        vae.encode(data.load(0, 32))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def spoil(model: SSVAE) -> None:
        with torch.no_grad():
            model.encoder.out_layer.bias[0] = float("nan")

    with pytest.raises(UserError, match=r"1 weights of step 5 are not finite \(encoder\.out_layer"):
        FrozenVAE(write_run(tmp_path / "vae", change=spoil), device="cpu")


def test_a_latent_that_overflows_is_rejected_by_name(
    tmp_path: Path, data: SDFDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large finite weights: some shapes' latents are infinite, others' are not."""
    vae = FrozenVAE(write_run(tmp_path / "vae"), device="cpu")
    real = vae.encode
    with torch.no_grad():  # between the largest |mean| of two samples
        sizes = {i: max(float(np.abs(real(data.load(i, r)).mean).max()) for r in (32, 64)) for i in range(5)}  # fmt: skip  # noqa: E501
        order = sorted(sizes, key=sizes.__getitem__)
        limit = (sizes[order[-1]] * sizes[order[-2]]) ** 0.5
        scale = float(np.finfo(np.float32).max) / limit
        vae.model.encoder.out_layer.weight[:3] *= scale
        vae.model.encoder.out_layer.bias[:3] *= scale
    worst = data.entry(order[-1]).id
    fresh = EncodedLatents(vae, data, [32, 64])
    assert list(fresh.missing) == [worst]
    assert f"sample '{worst}'" in fresh.missing[worst]
    assert f"rejected: sample '{worst}'" in capsys.readouterr().err
    resolution = 64 if "resolution 64" in fresh.missing[worst] else 32
    with pytest.raises(NotFiniteError, match=f"'{worst}' at resolution {resolution}"):
        fresh.load(order[-1], resolution)
    written = encode_dataset(vae, data, tmp_path / "out", [32, 64])
    assert [reject.id for reject in written.index.rejects] == [worst]
    cached = CachedLatents(tmp_path / "out", data)
    assert cached.missing == fresh.missing
    assert cached.statistics.to_json() == fresh.statistics.to_json()
    assert np.isfinite(cached.statistics.std).all()


def test_given_statistics_spare_the_measurement(run: Path, data: SDFDataset) -> None:
    vae = FrozenVAE(run, device="cpu")
    measured = EncodedLatents(vae, data, [32])
    calls = []
    vae.encode = lambda sdf: calls.append(sdf)  # type: ignore[method-assign, assignment, return-value]
    again = EncodedLatents(vae, data, [32], "mode", "stop", measured.statistics, {"s1": "why"})
    assert (calls, again.missing) == ([], {"s1": "why"})
    with pytest.raises(ValueError, match="draw"):
        EncodedLatents(vae, data, [32], "sample", statistics=measured.statistics)


def test_a_shape_whose_cells_are_not_its_bricks_is_a_defect(data: SDFDataset) -> None:
    sdf = data.load(0, 32)
    band = sdf.band.copy()
    band[1] = False
    with pytest.raises(ValueError, match="latent cells are not the active bricks"):
        encode_one(SSVAE(TINY).eval(), replace(sdf, band=band), "cpu")


def test_the_command(run: Path, data: SDFDataset, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    line = ["encode", str(run), str(data.path), "--out", str(out)]
    assert cli.main([*line, "--values", "fp16", "--split", "train"]) == 0
    printed = capsys.readouterr().out
    index = LatentIndex.load(out)
    assert (index.params.values, index.params.store) == ("fp16", "posterior")
    assert index.params.resolutions == (32, 64)  # those of the run
    assert [sample.id for sample in index.samples] == ["s0", "s1", "s2", "s3"]
    assert f"latents of 4 samples at 32, 64: {index.tokens:,} tokens of 3 channels" in printed
    assert "(4 encoded now)" in printed
    assert "rejected: none" in printed
    before = products(out)
    assert cli.main([*line, "--values", "fp16", "--split", "train"]) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert products(out) == before
    for more, words in (
        ([], "filter = "),
        (["--values", "fp16", "--split", "train", "--weights", "model"], "weights = ema"),
        (["--values", "fp16", "--split", "train", "--resolution", "256"], "256 is not stored"),
    ):
        assert cli.main([*line, *more]) == 2
        assert words in capsys.readouterr().err
    assert products(out) == before
    assert cli.main(["encode", str(data.path), str(data.path), "--out", str(out)]) == 2
    assert "not a run directory" in capsys.readouterr().err

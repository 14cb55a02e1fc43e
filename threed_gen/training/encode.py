"""A frozen SS-VAE as a source of latents: on the fly while an SS-DiT trains, or into a folder.

Every shape is encoded alone, in fp32, on a CPU by one thread: a second one would change the last
bits. So a latent is the same whether it was stored or not, and whoever encodes it (on GPUs of one
kind, or on CPUs of one kind).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threed_gen.console import Progress
from threed_gen.data.batch import collate
from threed_gen.data.config import FilterConfig
from threed_gen.data.crew import Crew
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import INDEX_NAME
from threed_gen.data.latents.index import SHARDS, LatentParams
from threed_gen.data.latents.latent import (
    Latent,
    OnBadSample,
    Reject,
    check_finite,
    latents_of,
)
from threed_gen.data.latents.payload import Store, Values
from threed_gen.data.latents.statistics import Draw, LatentStatistics, Moments
from threed_gen.data.latents.work import Packer, WaitingSamples
from threed_gen.data.latents.writer import EVERYTHING, SHARD_BYTES, Written, write_latents
from threed_gen.data.ranks import Share
from threed_gen.errors import UserError
from threed_gen.files import file_sha256
from threed_gen.geometry.sparse_sdf import SparseSDF
from threed_gen.models.ss_vae import SSVAE
from threed_gen.models.weights import weights_sha256
from threed_gen.training.load import load_vae


class FrozenVAE:
    """A trained SS-VAE that only encodes.

    Pickled to a loader's worker it is its run's directory, and loads the weights there again when
    they are first needed; other weights by then are an error.
    """

    def __init__(self, root: Path, weights: str = "ema", device: str | None = None) -> None:
        """Load the newest whole checkpoint of the run `root`; UserError as `load_vae`.

        Args:
            weights: "ema" or "model".
            device: None takes a GPU where there is one.
        """
        self.root, self.weights = root, weights
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_vae(root, weights)
        self.step, self.config = loaded.step, loaded.config
        self.channels = loaded.config.model.latent_channels
        self.weights_sha256 = weights_sha256(loaded.model)
        wrong = [name for name, p in loaded.model.named_parameters() if not p.isfinite().all()]
        if wrong:
            raise UserError(
                f"{root}: {len(wrong)} weights of step {self.step} are not finite ({wrong[0]} …); "
                "go back to an earlier checkpoint"
            )
        self._model: SSVAE | None = loaded.model.to(self.device).eval()

    def __getstate__(self) -> dict[str, Any]:
        # A worker computes on the CPU: one more process on the GPU would cost a context's memory.
        return {**self.__dict__, "_model": None, "device": "cpu"}

    @property
    def model(self) -> SSVAE:
        """The SS-VAE, in eval mode on `device`; also for decoding."""
        if self._model is None:
            loaded = load_vae(self.root, self.weights)
            if weights_sha256(loaded.model) != self.weights_sha256:
                raise UserError(
                    f"{self.root}: its newest checkpoint is now step {loaded.step}, latents are "
                    f"those of step {self.step}; let the SS-VAE finish before it is used"
                )
            self._model = loaded.model.to(self.device).eval()
        return self._model

    def encode(self, sdf: SparseSDF) -> Latent:
        """The latent of one shape; its numbers may be anything, `check_finite` judges them."""
        return encode_one(self.model, sdf, self.device)


class EncodedLatents:
    """A `LatentSource` that encodes the samples of a data set when they are asked for."""

    def __init__(
        self,
        vae: FrozenVAE,
        dataset: SDFDataset,
        resolutions: Sequence[int],
        draw: Draw = "mode",
        on_bad_sample: OnBadSample = "stop",
        statistics: LatentStatistics | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """Measure the statistics, which encodes all samples once; or take those that are given.

        `missing` are then the samples whose latent was found not finite, or whose SDF is damaged
        (under `on_bad_sample: substitute`), by id with the reason; give both or none.
        """
        self.vae, self.dataset = vae, dataset
        self.resolutions, self.draw = tuple(sorted(resolutions)), draw
        self.missing: dict[str, str] = dict(missing or {})
        if statistics is not None and statistics.draw != draw:
            raise ValueError(f"draw '{draw}' with statistics of draw '{statistics.draw}'")
        self.statistics = statistics or LatentStatistics.of(self._moments(on_bad_sample), draw)

    def over(self, dataset: SDFDataset) -> EncodedLatents:
        """The same, with the same statistics, for another choice of the samples."""
        other = copy(self)
        other.dataset = dataset
        return other

    @property
    def channels(self) -> int:
        """C."""
        return self.vae.channels

    def load(self, i: int, resolution: int) -> Latent:
        """The latent of sample i.

        Raises:
            NotFiniteError: naming the sample, if the SS-VAE says anything else than numbers.
            UserError: as `SDFDataset.load`.
        """
        latent = self.vae.encode(self.dataset.load(i, resolution))
        check_finite(latent, self.dataset.entry(i).id)
        return latent

    def _moments(self, on_bad_sample: OnBadSample) -> Iterator[Moments]:
        with Progress(len(self.dataset), "measuring latents", "shape") as bar:
            for i in range(len(self.dataset)):
                name = self.dataset.entry(i).id
                latents = latents_of(name, self.resolutions, partial(self.load, i), on_bad_sample)
                if isinstance(latents, Reject):
                    bar.line(f"rejected: {latents.message}")
                    self.missing[name] = f"rejected ({latents.reason}): {latents.message}"
                else:
                    for latent in latents:
                        yield Moments.of(latent.mean, latent.logvar)
                bar.advance(note=name)


def encode_dataset(
    vae: FrozenVAE,
    dataset: SDFDataset,
    out: Path,
    resolutions: Sequence[int],
    store: Store = "posterior",
    values: Values = "fp32",
    shard_bytes: int = SHARD_BYTES,
    on_bad_sample: OnBadSample = "stop",
    share: Share = EVERYTHING,
    crew: Crew | None = None,
) -> Written:
    """Write the latents of a data set into `out`, or go on with it; errors of `write_latents`.

    `share` is this process's part of the samples; a `crew` encodes in its stead.
    """
    params = LatentParams(
        run=vae.root.resolve().name,
        step=vae.step,
        weights=vae.weights,
        weights_sha256=vae.weights_sha256,
        data=str(dataset.path),
        source_sha256=file_sha256(dataset.path / INDEX_NAME),
        filter=dataset.rules.model_dump(mode="json"),
        tau=dataset.tau,
        store=store,
        values=values,
        channels=vae.channels,
        resolutions=tuple(sorted(set(resolutions))),
        shard_bytes=shard_bytes,
    )
    for resolution in params.resolutions:
        dataset.source_resolution(resolution)  # it says so before any work if there is none
    packer = packer_of(vae, dataset, params, on_bad_sample)
    elsewhere = None
    if crew is not None:
        elsewhere = partial(crew.run, partial(encode_into, out, vae.root, params, on_bad_sample))
    return write_latents(out, dataset, params, packer.encode, on_bad_sample, share, elsewhere)


def packer_of(
    vae: FrozenVAE, dataset: SDFDataset, params: LatentParams, on_bad_sample: OnBadSample
) -> Packer:
    """What encodes samples of `dataset` by `vae` as `params` say."""
    return Packer(dataset, params, lambda i, r: vae.encode(dataset.load(i, r)), on_bad_sample)


def encode_into(
    out: Path, root: Path, params: LatentParams, on_bad_sample: OnBadSample, i: int
) -> int:
    """On a rank of a crew: encode sample i and leave it to be packed; returns i.

    Raises:
        UserError: weights or data are not those that rank 0 has.
    """
    key = (root, repr(params))
    if key not in _opened:
        _opened.clear()
        vae = FrozenVAE(root, params.weights, own_device(os.environ))
        dataset = SDFDataset(Path(params.data), params.tau, FilterConfig(**params.filter))
        found = vae.weights_sha256, file_sha256(dataset.path / INDEX_NAME)
        if found != (params.weights_sha256, params.source_sha256):
            raise UserError(f"{root}, {dataset.path}: changed while they were read; start again")
        _opened[key] = packer_of(vae, dataset, params, on_bad_sample)
    WaitingSamples(out / SHARDS).write(_opened[key].packed(i))
    return i


_opened: dict[tuple[Path, str], Packer] = {}  # what this rank encodes with, loaded once


def own_device(environ: Mapping[str, str]) -> str | None:
    """The GPU of this rank where several of its node share the GPUs they see; None: the usual."""
    count = torch.cuda.device_count()
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "LOCAL_RANK"):
        if count > 1 and environ.get(name, "").isdecimal():
            return f"cuda:{int(environ[name]) % count}"
    return None


@torch.no_grad()
def encode_one(model: SSVAE, sdf: SparseSDF, device: torch.device | str) -> Latent:
    """What an SS-VAE in eval mode says of one shape, in the order of its bricks."""
    assert not model.training
    with steady_arithmetic(), torch.autocast(torch.device(device).type, enabled=False):
        posterior = model.encode(collate([sdf]).inputs.to(device))
        coords = posterior.mean.grid.coords[:, 1:].cpu().numpy()  # [T, 3], canonical order
        mean, logvar = (p.feats.float().cpu().numpy() for p in posterior)  # [T, C]
    order = np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0]))
    bricks = np.ascontiguousarray(coords[order], dtype=np.int32)
    if not np.array_equal(bricks, sdf.bricks):
        raise ValueError("the latent cells are not the active bricks of the shape")
    return Latent(bricks, mean[order], logvar[order], sdf.resolution)


@contextmanager
def steady_arithmetic() -> Iterator[None]:
    """One thread, and denormal numbers as zero, as training has it; put back at the end."""
    threads = torch.get_num_threads()
    flushed = float(torch.tensor(1e-40) * 1) == 0.0
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)

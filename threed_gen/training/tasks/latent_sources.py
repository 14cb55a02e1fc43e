"""Where an SS-DiT's run gets its latents, and what it remembers: `sources.json`.

It says which SS-VAE the run began with (its weights by sha256), by which statistics its latents are
normalised, and which structure stage goes with it. A resumed run reads it, so that it goes on with
the same numbers, or says what has changed; `generate` needs nothing else to find its way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from threed_gen.console import say
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.reader import CachedLatents
from threed_gen.data.latents.source import LatentSource, denormalise
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.errors import UserError
from threed_gen.files import write_json
from threed_gen.models.ss_vae import SSVAE
from threed_gen.models.weights import state_sha256
from threed_gen.training.encode import EncodedLatents, FrozenVAE
from threed_gen.training.load import newest_of, weights_of
from threed_gen.training.run_config import SSDiTRun, StructureLink

SOURCES = "sources.json"
SHOWN = 5  # names of samples without a latent


@dataclass(frozen=True)
class Decoder:
    """What makes fields out of the flow's latents again."""

    vae: SSVAE  # in eval mode
    statistics: LatentStatistics

    def denormalised(self, x: Tensor) -> Tensor:
        """z of normalised latents [T, C]."""
        return denormalise(x, self.statistics)


@dataclass(frozen=True)
class Latents:
    """The latents of one run: their source, over its training samples, and their SS-VAE."""

    source: LatentSource
    vae: FrozenVAE | None  # None: latents from a folder, and `latents.run` is not given

    def decoder(self, device: torch.device) -> Decoder | None:
        """The SS-VAE's decoder on a device."""
        if self.vae is None:
            return None
        return Decoder(self.vae.model.to(device), self.source.statistics)


def remember(config: SSDiTRun, vae: FrozenVAE | None, dataset: SDFDataset, run: Path) -> None:
    """Write `sources.json`; on rank 0, before the others look. On resume: check it.

    Raises:
        UserError: the SS-VAE is not the one that this run began with.
    """
    path = run / SOURCES
    now: dict[str, Any] = {"ss_vae": _described(config, vae, dataset)}
    if config.structure is not None:
        now["structure"] = _structure(config.structure)
    if path.is_file():
        before = _read(path)
        _same(before["ss_vae"], now["ss_vae"], "SS-VAE", path)
        if "structure" in before or "structure" in now:
            _same(before.get("structure", {}), now.get("structure", {}), "structure stage", path)
        return
    if config.latents.path is not None:
        now["statistics"] = _cached(config, dataset).statistics.to_json()
    else:
        assert vae is not None
        measured = EncodedLatents(
            vae, dataset, config.data.resolutions, config.latents.draw, config.data.on_bad_sample
        )
        now |= {"statistics": measured.statistics.to_json(), "missing": dict(measured.missing)}
    if not config.latents.normalise:
        channels = len(now["statistics"]["mean"])
        now["statistics"] = LatentStatistics.plain(channels, config.latents.draw).to_json()
    write_json(path, now)


def open_latents(
    config: SSDiTRun, vae: FrozenVAE | None, dataset: SDFDataset, run: Path
) -> Latents:
    """The source of a run's latents over `dataset`, after `remember`; on every rank."""
    path = run / SOURCES
    known = _read(path)
    try:
        statistics = LatentStatistics.from_json(known["statistics"])
        missing = {str(name): str(why) for name, why in known.get("missing", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise UserError(f"{path}: damaged ({type(err).__name__}: {err}); {_cure()}") from err
    if config.latents.path is not None:
        return _opened(_cached(config, dataset, statistics), vae)
    assert vae is not None
    source = EncodedLatents(
        vae, dataset, config.data.resolutions, config.latents.draw,
        config.data.on_bad_sample, statistics, missing,
    )  # fmt: skip
    return _opened(source, vae)


def _opened(source: LatentSource, vae: FrozenVAE | None) -> Latents:
    warning = source.statistics.warning()
    if warning is not None and _speaks():
        say(f"WARNING: {warning}")
    return Latents(source, vae)


def _speaks() -> bool:
    """One rank speaks for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def usable(dataset: SDFDataset, missing: Mapping[str, str], rule: str) -> SDFDataset:
    """The samples that are not in `missing` (by id, with the reason); says which are."""
    lost = [name for name in (s.id for s in dataset.index.samples) if name in missing]
    if not lost:
        return dataset
    if _speaks():
        for name in lost[:SHOWN]:
            say(f"left out ({rule}): {name}: {missing[name]}")
        if len(lost) > SHOWN:
            say(f"left out ({rule}): {len(lost) - SHOWN:,} more")
    ids = {sample.id for sample in dataset.index.samples} - set(lost)
    return dataset.only(ids, rule)


def frozen_vae(config: SSDiTRun) -> FrozenVAE | None:
    """The SS-VAE of `latents.run`, its weights read and hashed; None: the key is not given."""
    run = config.latents.run
    return None if run is None else FrozenVAE(Path(run), config.latents.weights)


def _cached(
    config: SSDiTRun, dataset: SDFDataset, statistics: LatentStatistics | None = None
) -> CachedLatents:
    """`statistics`: those that the run remembers; None: those of the folder."""
    assert config.latents.path is not None
    found = CachedLatents(
        Path(config.latents.path), dataset, config.latents.draw, config.data.resolutions
    )
    found.statistics = statistics or found.statistics
    return found


def _structure(link: StructureLink) -> dict[str, Any]:
    """What is remembered of a structure stage; UserError if it is none."""
    config, checkpoint = newest_of(Path(link.run))
    if config.task != "structure_dit":
        raise UserError(
            f"structure.run: {link.run} is a run of task {config.task}; give one of structure_dit"
        )
    sha256 = state_sha256(weights_of(checkpoint, link.weights))
    return {"run": link.run, "weights": link.weights, "step": checkpoint.step, "sha256": sha256}


def _described(config: SSDiTRun, vae: FrozenVAE | None, dataset: SDFDataset) -> dict[str, Any]:
    if config.latents.path is not None:
        params = _cached(config, dataset).params
        encoded = {"run": params.run, "weights": params.weights, "step": params.step,
                   "sha256": params.weights_sha256}  # fmt: skip
        if vae is not None and vae.weights_sha256 != params.weights_sha256:
            raise UserError(
                f"{config.latents.path}: was encoded by another SS-VAE (step {params.step}) than "
                f"the one in latents.run = {config.latents.run} (step {vae.step}); give the right "
                "run, or encode again"
            )
        return encoded | ({} if vae is None else {"run": str(vae.root)})
    if vae is None:
        raise UserError("latents: give latents.run or latents.path")
    return {"run": str(vae.root), "weights": vae.weights, "step": vae.step,
            "sha256": vae.weights_sha256}  # fmt: skip


def _same(before: Mapping[str, Any], now: Mapping[str, Any], what: str, path: Path) -> None:
    if before.get("sha256") != now.get("sha256"):
        raise UserError(
            f"{path}: this run began with step {before.get('step')} of the {what} "
            f"{before.get('run')}, which is at step {now.get('step')} now; put that checkpoint "
            "back, or begin a new run"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree["ss_vae"], dict):
            raise TypeError("ss_vae is no object")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"{path}: damaged ({type(err).__name__}: {err}); {_cure()}") from err
    return dict(tree)


def _cure() -> str:
    return "delete it and resume: it is measured again"

"""Trained models of the structure stage out of run directories, ready to use.

A structure DiT's run remembers in `sources.json` which structure VAE its latents are of (weights by
sha256) and the statistics that they were normalised by; both are needed to make cells of what it
says. A run on occupancy itself has neither, and no such file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.errors import UserError
from threed_gen.generation.structure import Structure, StructureSpace
from threed_gen.models.structure_dit import StructureDiT
from threed_gen.models.structure_vae import StructureVAE
from threed_gen.models.weights import weights_sha256
from threed_gen.training.load import check_finite, fill, find_run, newest_of, weights_of
from threed_gen.training.run_config import StructureDiTRun, StructureVAERun
from threed_gen.training.run_dir import RunDir
from threed_gen.training.tasks.latent_sources import SOURCES
from threed_gen.training.tasks.shown import AnyConditioner, conditioner_of

KEY = "structure_vae"  # in sources.json


@dataclass(frozen=True)
class LoadedStructureVAE:
    """A trained structure VAE."""

    model: StructureVAE  # frozen, in eval mode, on the CPU
    config: StructureVAERun
    root: Path
    weights: str  # "ema" or "model"
    step: int
    sha256: str  # of its weights

    def told(self) -> dict[str, Any]:
        """What a run on its latents remembers of it."""
        return {"run": str(self.root), "weights": self.weights, "step": self.step,
                "sha256": self.sha256}  # fmt: skip


@dataclass(frozen=True)
class LoadedStructure:
    """A trained structure DiT with all that it needs."""

    structure: Structure  # in eval mode, on the CPU
    conditioner: AnyConditioner  # in eval mode, on the CPU
    config: StructureDiTRun
    step: int


def load_structure_vae(root: Path, weights: str = "ema") -> LoadedStructureVAE:
    """The structure VAE of a run, at its newest whole checkpoint.

    Raises:
        UserError: not such a run, no whole checkpoint, or weights that do not fit or are not
            finite.
    """
    config, checkpoint = newest_of(root)
    if not isinstance(config, StructureVAERun):
        raise UserError(
            f"{root}: a run of task {config.task}; this needs one of task structure_vae"
        )
    model = StructureVAE(config.model)
    state = weights_of(checkpoint, weights)
    stripped = {name.removeprefix("model."): value for name, value in state.items()}
    fill(model, stripped, checkpoint.path, RunDir(root).config)
    check_finite(model, root)
    model.eval().requires_grad_(False)
    return LoadedStructureVAE(
        model, config, root, weights, checkpoint.step, weights_sha256(model)
    )  # fmt: skip


def load_structure(root: Path, weights: str = "ema") -> LoadedStructure:
    """The structure DiT of a run, its conditioner, and the VAE that it remembers.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).

    Raises:
        UserError: as `load_structure_vae`, of either run; or the VAE is another one by now.
    """
    config, checkpoint = newest_of(root)
    if not isinstance(config, StructureDiTRun):
        raise UserError(
            f"{root}: a run of task {config.task}; this needs one of task structure_dit"
        )
    space = read_space(config, root / SOURCES, vae_of(config, root))
    module = nn.Module()
    module.model = StructureDiT(config.model)
    module.conditioner = conditioner = conditioner_of(config.condition)
    fill(module, weights_of(checkpoint, weights), checkpoint.path, RunDir(root).config)
    module.eval()
    structure = Structure(
        module.model, space.vae, config.grid, config.structure.threshold, space.statistics,
        space.scale,
    )  # fmt: skip
    return LoadedStructure(structure, conditioner, config, checkpoint.step)


def vae_of(config: StructureDiTRun, beside: Path | None = None) -> LoadedStructureVAE | None:
    """The VAE of `structure.run`; None: the DiT denoises occupancy itself.

    Args:
        beside: the run whose config it is; the VAE's may have been moved together with it.

    Raises UserError where its sizes and those of the config do not fit.
    """
    run, model = config.structure.run, config.model
    if run is None:
        return None
    place = Path(run) if beside is None else find_run(Path(run), beside) or Path(run)
    vae = load_structure_vae(place, config.structure.weights)
    theirs = vae.config.model
    grid = config.grid // theirs.factor
    if config.grid % theirs.factor or model.grid != grid:
        raise UserError(
            f"model.grid: is {model.grid}, but the structure VAE makes "
            f"{config.grid / theirs.factor:g} latent cells per axis of resolution "
            f"{config.data.resolutions[0]}"
        )
    if model.latent_channels != theirs.latent_channels:
        raise UserError(
            f"model.latent_channels: is {model.latent_channels}, but the structure VAE has "
            f"{theirs.latent_channels}; set it to {theirs.latent_channels}"
        )
    return vae


def read_space(
    config: StructureDiTRun, path: Path, vae: LoadedStructureVAE | None
) -> StructureSpace:
    """What a run's DiT denoises, with the statistics that `path` (its sources.json) holds."""
    if vae is None:
        return StructureSpace(scale=config.structure.scale)
    known = read_sources(path)
    same_vae(known[KEY], vae, path)
    try:
        statistics = LatentStatistics.from_json(known["statistics"])
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise _damaged(path, err) from err
    if statistics.channels != config.model.latent_channels:
        raise _damaged(path, ValueError(f"statistics of {statistics.channels} channels"))
    return StructureSpace(vae.model, statistics)


def read_sources(path: Path) -> dict[str, Any]:
    """The content of a structure DiT's sources.json; UserError when it is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree[KEY], dict):
            raise TypeError(f"{KEY} is no object")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise _damaged(path, err) from err
    return dict(tree)


def same_vae(before: Mapping[str, Any], now: LoadedStructureVAE, path: Path) -> None:
    """UserError unless `now` is the VAE that the run began with."""
    if before.get("sha256") != now.sha256:
        raise UserError(
            f"{path}: this run began with step {before.get('step')} of the structure VAE "
            f"{before.get('run')}, which is at step {now.step} now; put that checkpoint back, or "
            "begin a new run"
        )


def _damaged(path: Path, err: Exception) -> UserError:
    return UserError(
        f"{path}: missing or damaged ({type(err).__name__}: {err}); delete it and resume the run: "
        "it is measured again"
    )

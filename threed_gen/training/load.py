"""Trained models out of run directories, ready to use; no DeepSpeed, no ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from threed_gen.console import say
from threed_gen.data.embedded import ensure_prepared
from threed_gen.errors import UserError
from threed_gen.models.ss_vae import SSVAE
from threed_gen.training import checkpoint as ckpt
from threed_gen.training.run_config import RunConfig, SSVAERun, load_run_config
from threed_gen.training.run_dir import RunDir

KINDS = {"ema": "average", "model": "parameter"}


@dataclass(frozen=True)
class LoadedVAE:
    """A trained SS-VAE."""

    model: SSVAE  # in eval mode, on the CPU
    config: SSVAERun
    step: int


@dataclass(frozen=True)
class LoadedRun:
    """What reconstruction and evaluation need of a run."""

    model: SSVAE  # in eval mode on `device`
    config: SSVAERun
    step: int
    device: torch.device
    data: Path  # the prepared shards it was trained on


def load_run(root: Path, weights: str = "ema") -> LoadedRun:
    """The newest whole checkpoint of an SS-VAE's run, and its data.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).

    Raises:
        UserError: not such a run, no whole checkpoint, or weights that do not fit the config.
    """
    loaded = load_vae(root, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    data = ensure_prepared(loaded.config.data, root / "data", os.cpu_count() or 1)
    return LoadedRun(loaded.model.to(device), loaded.config, loaded.step, device, data)


def load_vae(root: Path, weights: str = "ema") -> LoadedVAE:
    """The SS-VAE of a run, at its newest whole checkpoint; arguments and errors of `load_run`."""
    config, checkpoint = newest_of(root)
    if not isinstance(config, SSVAERun):
        raise UserError(f"{root}: a run of task {config.task}; this needs one of task ss_vae")
    model = SSVAE(config.model)
    state = weights_of(checkpoint, weights)
    try:
        model.load_state_dict({name.removeprefix("model."): v for name, v in state.items()})
    except RuntimeError as err:
        raise UserError(f"{checkpoint.path}: does not fit {RunDir(root).config}: {err}") from err
    return LoadedVAE(model.eval(), config, checkpoint.step)


def newest_of(root: Path) -> tuple[RunConfig, ckpt.Checkpoint]:
    """A run's config and its newest whole checkpoint; says which damaged ones it walked past."""
    run = RunDir(root)
    run.require()
    config = load_run_config(run.config)
    found, problems = ckpt.find_newest(run.checkpoints)
    for line in problems:
        say(f"WARNING: walked past a damaged checkpoint: {line}")
    if found is None:
        raise UserError(f"{run.checkpoints}: no whole checkpoint; train this run further first")
    return config, found


def weights_of(checkpoint: ckpt.Checkpoint, weights: str) -> dict[str, Tensor]:
    """All tensors of the trained module by name: "ema" (its average) or "model" (itself)."""
    return ckpt.read_weights(checkpoint, KINDS[weights])

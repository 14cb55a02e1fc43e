"""Trained models out of run directories, ready to use; no DeepSpeed, no ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from threed_gen.console import say
from threed_gen.data.embedded import ensure_prepared
from threed_gen.errors import UserError
from threed_gen.models.ss_vae import SSVAE
from threed_gen.models.weights import mismatches, wanted
from threed_gen.training import checkpoint as ckpt
from threed_gen.training.exported import exported_step, is_exported, read_exported
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
    data: str  # the prepared shards it was trained on: a folder, or a URL


def load_run(root: Path, weights: str = "ema") -> LoadedRun:
    """The newest whole checkpoint of an SS-VAE's run, and its data.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).

    Raises:
        UserError: not such a run, no whole checkpoint, or weights that do not fit the config.
    """
    loaded = load_vae(root, weights)
    device = best_device()
    data = ensure_prepared(loaded.config.data, root / "data", os.cpu_count() or 1)
    return LoadedRun(loaded.model.to(device), loaded.config, loaded.step, device, data)


def load_vae(root: Path, weights: str = "ema") -> LoadedVAE:
    """The SS-VAE of a run, at its newest whole checkpoint; arguments and errors of `load_run`."""
    config, checkpoint = newest_of(root)
    if not isinstance(config, SSVAERun):
        raise UserError(f"{root}: a run of task {config.task}; this needs one of task ss_vae")
    model = SSVAE(config.model)
    state = weights_of(checkpoint, weights)
    stripped = {name.removeprefix("model."): value for name, value in state.items()}
    fill(model, stripped, checkpoint.path, RunDir(root).config)
    return LoadedVAE(model.eval(), config, checkpoint.step)


def newest_of(root: Path) -> tuple[RunConfig, ckpt.Checkpoint]:
    """A run's config and its newest whole checkpoint; says which damaged ones it walked past.

    An exported folder counts as its own checkpoint.
    """
    run = RunDir(root)
    run.require()
    config = load_run_config(run.config)
    if is_exported(root):
        return config, ckpt.Checkpoint(root, {"step": exported_step(root)})
    found, problems = ckpt.find_newest(run.checkpoints)
    for line in problems:
        say(f"WARNING: walked past a damaged checkpoint: {line}")
    if found is None:
        raise UserError(f"{run.checkpoints}: no whole checkpoint; train this run further first")
    return config, found


def weights_of(checkpoint: ckpt.Checkpoint, weights: str) -> dict[str, Tensor]:
    """All tensors of the trained module by name: "ema" (its average) or "model" (itself)."""
    if is_exported(checkpoint.path):
        return read_exported(checkpoint.path, weights)
    return ckpt.read_weights(checkpoint, KINDS[weights])


def find_run(run: Path, beside: Path) -> Path | None:
    """Where a run is that another one remembers: where it was, or beside that other one.

    The second when runs were moved together, or copied from another machine.
    """
    places = (run, beside.absolute().parent / run.name)
    return next((place for place in places if RunDir(place).config.is_file()), None)


def fill(module: nn.Module, state: Mapping[str, Tensor], source: Path, config: Path) -> None:
    """Load weights; UserError naming the first that does not fit, and how many more there are.

    Constant buffers that `state` lacks stay as the module has them: checkpoints hold parameters.
    """
    problems = mismatches(wanted(module, state), state)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{source}: does not fit {config}: {problems[0]}{more}")
    module.load_state_dict(state, strict=False)


def check_finite(module: nn.Module, source: Path) -> None:
    """UserError unless all weights are finite numbers."""
    wrong = [name for name, value in module.named_parameters() if not value.isfinite().all()]
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} weights are not finite ({wrong[0]} …); go back to an earlier "
            "checkpoint"
        )


def best_device() -> torch.device:
    """A GPU where there is one; on a CPU all cores compute."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch.device("cpu")

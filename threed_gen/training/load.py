"""A trained model out of a run directory, ready to use; no DeepSpeed, no ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from threed_gen.console import say
from threed_gen.data.embedded import ensure_prepared
from threed_gen.errors import UserError
from threed_gen.models.ss_vae import SSVAE
from threed_gen.training import checkpoint as ckpt
from threed_gen.training.run_config import SSVAERun, load_run_config
from threed_gen.training.run_dir import RunDir

KINDS = {"ema": "average", "model": "parameter"}


@dataclass(frozen=True)
class LoadedRun:
    """What reconstruction and evaluation need of a run."""

    model: SSVAE  # in eval mode on `device`
    config: SSVAERun
    step: int
    device: torch.device
    data: Path  # the prepared shards it was trained on


def load_run(root: Path, weights: str = "ema") -> LoadedRun:
    """Load the newest whole checkpoint of a run.

    Args:
        weights: "ema" (the moving average) or "model" (the raw weights).

    Raises:
        UserError: not a run, no whole checkpoint, or weights that do not fit the config.
    """
    run = RunDir(root)
    run.require()
    config = load_run_config(run.config)
    if not isinstance(config, SSVAERun):
        raise UserError(f"{root}: a run of task {config.task}; this needs one of task ss_vae")
    found, problems = ckpt.find_newest(run.checkpoints)
    for line in problems:
        say(f"WARNING: walked past a damaged checkpoint: {line}")
    if found is None:
        raise UserError(f"{run.checkpoints}: no whole checkpoint; train this run further first")
    state = {
        name.removeprefix("model."): tensor
        for name, tensor in ckpt.read_weights(found, KINDS[weights]).items()
    }
    model = SSVAE(config.model)
    try:
        model.load_state_dict(state)
    except RuntimeError as err:
        raise UserError(f"{found.path}: does not fit {run.config}: {err}") from err
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    data = ensure_prepared(config.data, run.root / "data", os.cpu_count() or 1)
    return LoadedRun(model.to(device).eval(), config, found.step, device, data)

"""Runs of untrained SS-VAEs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tests.training.written_runs import write_checkpoint
from threed_gen.data.config import DataConfig
from threed_gen.models.ss_vae import SSVAE, SSVAEConfig
from threed_gen.training.run_config import SSVAERun


def write_run(
    root: Path, model: SSVAEConfig, resolutions: list[int], step: int = 5,
    change: Callable[[SSVAE], object] | None = None,
) -> Path:  # fmt: skip
    """One whole checkpoint: its average is one model, its weights another; `change` alters both."""
    config = SSVAERun(task="ss_vae", model=model, data=DataConfig(resolutions=resolutions))
    states = []
    for seed in (step, step + 1):
        torch.manual_seed(seed)
        vae = SSVAE(model)
        if change is not None:
            change(vae)
        states.append({f"model.{name}": tensor for name, tensor in vae.state_dict().items()})
    return write_checkpoint(root, config, *states, step)

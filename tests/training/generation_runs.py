"""Runs of all stages of a generation as training leaves them, tiny and without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.training.corridor import VAE
from tests.training.vae_runs import write_run
from tests.training.written_runs import write_checkpoint
from threed_gen.data.config import DataConfig
from threed_gen.data.latents.config import LatentsConfig
from threed_gen.data.latents.statistics import LatentStatistics
from threed_gen.files import write_json
from threed_gen.flow.guidance import GuidanceConfig
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.models.conditioning.config import ConditionConfig, PatchesConfig
from threed_gen.models.ss_dit import SSDiT, tiny
from threed_gen.models.structure_dit import StructureDiT, StructureDiTConfig
from threed_gen.models.weights import state_sha256, weights_sha256
from threed_gen.training.load import load_vae, newest_of, weights_of
from threed_gen.training.run_config import (
    FlowValidationConfig,
    RunConfig,
    SSDiTRun,
    StructureConfig,
    StructureDiTRun,
    StructureValidationConfig,
)
from threed_gen.training.tasks.shown import conditioner_of

RESOLUTION = 32
CONDITION = ConditionConfig(
    encoder="patches", size=16, sparse=True, augment=False,
    patches=PatchesConfig(channels=12, layers=1, heads=2),
)  # fmt: skip
SAMPLER = SamplerConfig(steps=2, shift=1.0, guidance=GuidanceConfig(scale=2.0))
DIT = tiny(
    latent_channels=VAE.latent_channels, channels=16, blocks=2, heads=2, kv_heads=1, head_dim=8,
    condition_channels=12, project_condition=True, top_k=2,
)  # fmt: skip
Change = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Runs:
    """Run directories, and a picture of a red ball."""

    vae: Path
    structure: Path
    dit: Path
    cascade: Path
    image: Path


def write_runs(folder: Path) -> Runs:
    """All of them; the SS-DiT remembers the other two."""
    runs = Runs(*(folder / n for n in ("vae", "structure", "dit", "fine", "ball.png")))
    write_run(runs.vae, VAE, [RESOLUTION, 2 * RESOLUTION])
    write_structure(runs.structure)
    write_dit(runs.dit, runs.vae, runs.structure)
    write_dit(runs.cascade, runs.vae, None, 2 * RESOLUTION)
    ball_picture(runs.image)
    return runs


def ball_picture(path: Path, colour: tuple[int, int, int] = (200, 40, 30)) -> Path:
    """A disc on transparency."""
    y, x = np.mgrid[:40, :40] - 19.5
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[x**2 + y**2 < 15**2] = (*colour, 255)
    Image.fromarray(rgba).save(path)
    return path


def write_dit(
    root: Path, vae: Path, structure: Path | None, resolution: int = RESOLUTION,
    change: Change | None = None, data: Path | None = None, latents: Path | None = None,
    condition: ConditionConfig = CONDITION, width: int = 12,
) -> Path:  # fmt: skip
    """An SS-DiT's run with random weights; `latents`: trained on that folder of `data`.

    width: of the condition's tokens.
    """
    config = SSDiTRun(
        task="ss_dit", model=DIT.model_copy(update={"condition_channels": width}),
        condition=condition,
        data=DataConfig(path=str(data) if data else None, resolutions=[resolution]),
        latents=LatentsConfig(path=str(latents) if latents else None, run=str(vae)),
        validation=FlowValidationConfig(sampler=SAMPLER),
    )  # fmt: skip
    module = nn.Module()
    torch.manual_seed(1)
    module.model, module.conditioner = SSDiT(config.model), conditioner_of(config.condition)
    write_random(root, config, module, change)
    remember(root, vae, structure)
    return root


def remember(root: Path, vae: Path, structure: Path | None) -> None:
    """`sources.json`, as training writes it."""
    channels = VAE.latent_channels
    statistics = LatentStatistics(99, np.full(channels, 0.1), np.full(channels, 1.5), "mode")
    loaded = load_vae(vae)
    told = {
        "ss_vae": {"run": str(vae), "weights": "ema", "step": loaded.step,
                   "sha256": weights_sha256(loaded.model)},
        "statistics": statistics.to_json(),
        "missing": {},
    }  # fmt: skip
    if structure is not None:
        _, checkpoint = newest_of(structure)
        sha256 = state_sha256(weights_of(checkpoint, "ema"))
        told["structure"] = {"run": str(structure), "weights": "ema", "step": 5, "sha256": sha256}
    write_json(root / "sources.json", told)


def write_structure(
    root: Path, change: Change | None = None, resolution: int = RESOLUTION,
    condition: ConditionConfig = CONDITION, width: int = 12,
) -> Path:  # fmt: skip
    """A structure DiT's run on occupancy itself; about four cells in five exist."""
    grid = resolution // 8
    config = StructureDiTRun(
        task="structure_dit", data=DataConfig(resolutions=[resolution]), condition=condition,
        model=StructureDiTConfig(
            grid=grid, patch=2, latent_channels=1, channels=16, blocks=1, heads=2,
            condition_channels=width,
        ),
        structure=StructureConfig(),
        validation=StructureValidationConfig(sampler=SAMPLER),
    )  # fmt: skip
    module = nn.Module()
    torch.manual_seed(2)
    module.model, module.conditioner = StructureDiT(config.model), conditioner_of(condition)
    write_random(root, config, module, change)
    return root


def write_random(
    root: Path, config: RunConfig, module: nn.Module, change: Change | None = None, step: int = 5
) -> None:
    """A run directory with one whole checkpoint, in which no parameter is zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if change is not None:
            change(module)
    state = dict(module.named_parameters())
    write_checkpoint(root, config, state, state, step)

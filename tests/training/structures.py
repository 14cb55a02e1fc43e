"""What a run of the structure stage needs, small: shapes with views, and a structure VAE's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.training import runs
from tests.training.written_runs import write_checkpoint
from threed_gen.data.config import DataConfig
from threed_gen.data.sources import ProceduralSource
from threed_gen.models.structure_vae import StructureVAE, StructureVAEConfig
from threed_gen.training.run_config import StructureVAERun

RESOLUTION = 32  # 4³ cells
TINY_VAE = Path(__file__).with_name("tiny_structure_vae.yaml")
TINY_DIT = Path(__file__).with_name("tiny_structure_dit.yaml")
SIZES: dict[str, Any] = {
    "encoder_widths": (4, 8), "decoder_widths": (8, 4), "latent_channels": 3, "encoder_blocks": 1,
    "encoder_middle_blocks": 0, "decoder_blocks": 1, "decoder_middle_blocks": 0,
}  # fmt: skip


def prepared(folder: Path) -> Path:
    """Six procedural shapes, three views of 32² each."""
    from threed_gen.data.prepare import prepare
    from threed_gen.data.views.params import ViewParams
    from threed_gen.data.views.stage import prepare_views

    source = ProceduralSource(6, 3)
    prepare(source, folder / "data", [RESOLUTION], workers=0)
    prepare_views(source, folder / "data", ViewParams(3, size=32, supersample=1), workers=0)
    return folder / "data"


def write_vae(root: Path, step: int = 5, seed: int | None = None) -> Path:
    """The run of an untrained structure VAE, as training leaves it after one checkpoint."""
    config = StructureVAERun(
        task="structure_vae", model=StructureVAEConfig(**SIZES),
        data=DataConfig(resolutions=[RESOLUTION]),
    )  # fmt: skip
    states = []
    for number in (step, step + 1):
        torch.manual_seed(number if seed is None else seed)
        state = StructureVAE(config.model).state_dict()
        states.append({f"model.{name}": tensor for name, tensor in state.items()})
    return write_checkpoint(root, config, *states, step)


def train(folder: Path, config: Path, overrides: list[str], ranks: int = 1) -> Path:
    """Run a config to its end; returns the run directory."""
    run = folder / "run"
    launcher = "python" if ranks == 1 else "torchrun"
    arguments = ["--config", str(config), "--out", str(run), *overrides]
    code = runs.finish(launcher, ranks, arguments, folder / "log", timeout=1200)
    assert code == 0, (folder / "log").read_text()[-3000:]
    return run

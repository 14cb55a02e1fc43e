"""The structure stage's configs: released sizes, one VAE that fits one DiT, and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from threed_gen import cli
from threed_gen.training.run_config import StructureDiTRun, StructureVAERun, load_run_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("structure_vae/direct3d-s2", ["structure_vae, 193.04 M", "59,298,192", "133,738,817"]),
        ("structure_dit/direct3d-s2", ["structure_dit, 555.54 M", "4,096 of 1³ cells of 16³"]),
        ("structure_vae/tiny", ["structure_vae, 1.64 M", "latent                 2³"]),
        ("structure_dit/tiny", ["structure_dit, 1.44 M", "denoises", "occupancy itself"]),
    ],
)
def test_inspect(name: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(CONFIGS / f"{name}.yaml")]) == 0
    printed = capsys.readouterr().out
    for line in told:
        assert line in printed


def test_the_released_dit_fits_the_released_vae() -> None:
    vae = load_run_config(CONFIGS / "structure_vae" / "direct3d-s2.yaml")
    dit = load_run_config(CONFIGS / "structure_dit" / "direct3d-s2.yaml")
    assert isinstance(vae, StructureVAERun) and isinstance(dit, StructureDiTRun)
    assert vae.data.resolutions == dit.data.resolutions == [512] and dit.grid == 64
    assert dit.model.grid * vae.model.factor == dit.grid
    assert dit.model.latent_channels == vae.model.latent_channels == 8
    assert dit.structure.run == "runs/structure_vae/direct3d-s2"
    assert dit.structure.threshold == vae.threshold == 0.1
    sampler = dit.validation.sampler
    assert (sampler.steps, sampler.shift, sampler.guidance.scale) == (50, 6.0, 7.0)

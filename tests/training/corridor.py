"""What an SS-DiT's run needs, small: shapes with views, an SS-VAE's run, its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.training import runs
from tests.training.vae_runs import write_run
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.sources import ProceduralSource, Source
from threed_gen.models.ss_vae import SSVAEConfig
from threed_gen.training.encode import FrozenVAE, encode_dataset

VAE = SSVAEConfig(
    encoder_widths=(4, 4, 8, 8), decoder_widths=(8, 8, 4, 4), latent_channels=4, encoder_blocks=1,
    decoder_blocks=1, heads=2, norm_groups=4, mean_head_init="xavier", output_init="xavier",
    initial_logvar=-4.0,
)  # fmt: skip
TINY_DIT = Path(__file__).with_name("tiny_dit.yaml")


@dataclass(frozen=True)
class Corridor:
    """Paths of one small corridor."""

    data: Path  # shards and views
    vae: Path  # run directory of the SS-VAE
    latents: Path

    @property
    def on_the_fly(self) -> list[str]:
        """Overrides of a run that encodes while it trains."""
        return [f"data.path={self.data}", f"latents.run={self.vae}"]

    @property
    def cached(self) -> list[str]:
        """Overrides of a run that reads latents."""
        return [*self.on_the_fly, f"latents.path={self.latents}"]


def build(folder: Path, resolution: int = 16, source: Source | None = None) -> Corridor:
    """Six procedural shapes, three views of 32² each, an untrained VAE, and its latents."""
    from threed_gen.data.prepare import prepare
    from threed_gen.data.views.params import ViewParams
    from threed_gen.data.views.stage import prepare_views

    corridor = Corridor(folder / "data", folder / "vae", folder / "latents")
    source = source or ProceduralSource(6, 3)
    prepare(source, corridor.data, [resolution], workers=0)
    prepare_views(source, corridor.data, ViewParams(3, size=32, supersample=1), workers=0)
    write_run(corridor.vae, VAE, [resolution])
    vae = FrozenVAE(corridor.vae, device="cpu")
    encode_dataset(vae, SDFDataset(corridor.data), corridor.latents, [resolution])
    return corridor


def train(
    folder: Path, overrides: list[str], launcher: str = "python", ranks: int = 1,
    script: Path = runs.TRAIN,
) -> Path:  # fmt: skip
    """Run the tiny SS-DiT to its end; returns the run directory."""
    run = folder / "run"
    arguments = ["--config", str(TINY_DIT), "--out", str(run), *overrides]
    code = runs.finish(launcher, ranks, arguments, folder / "log", script=script)
    assert code == 0, (folder / "log").read_text()[-3000:]
    return run

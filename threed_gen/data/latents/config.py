"""The `latents:` section of a run's config: where the SS-DiT's x0 comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from threed_gen.config import Config


class LatentsConfig(Config):
    """Latents from a folder, or from a frozen SS-VAE while training goes on."""

    path: str | None = None  # folder made by `threed-gen encode`; None: encode on the fly by `run`
    run: str | None = None  # run directory of the trained SS-VAE; also decodes previews
    weights: Literal["ema", "model"] = "ema"  # of `run`: the moving average, or the raw weights
    draw: Literal["mode", "sample"] = "mode"  # x0: the posterior's mean, or a fresh draw each step
    normalise: bool = True  # x0 = (z - mean) / std of each channel; false: z itself, as released

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> LatentsConfig:
        if self.path is None and self.run is None:
            raise ValueError(
                "give latents.path, a folder made by `threed-gen encode`, or latents.run, the run "
                "directory of a trained SS-VAE"
            )
        return self

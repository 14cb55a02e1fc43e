"""The `data:` section of a run's config: which samples, at which resolutions, in which order."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from threed_gen.config import Config
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import check_grid, default_tau


class ProceduralConfig(Config):
    """The embedded data set, used when `data.path` is not given."""

    count: int = Field(default=16, ge=1)  # shapes; they cycle through the families
    seed: int = 0


class DataConfig(Config):
    """Where samples come from and in which order they are seen."""

    path: str | None = None  # folder made by `threed-gen prepare`; None: procedural shapes
    procedural: ProceduralConfig = ProceduralConfig()
    resolutions: list[int] = [64]  # one of them is drawn for each step, the same on all ranks
    tau: float | None = None  # truncation in unit-cube units; None: each resolution's default
    streams: int = Field(default=1, ge=1)  # canonical streams of whole shards; about 64 for TBs
    block: int = Field(default=64, ge=1)  # consecutive samples that are read together
    on_bad_sample: Literal["stop", "substitute"] = "stop"
    workers: int = Field(default=0, ge=0)  # loader processes per rank; 0 reads in the main one

    @field_validator("resolutions")
    @classmethod
    def _not_empty(cls, value: list[int]) -> list[int]:
        if not value:
            raise ValueError("give at least one resolution")
        return sorted(set(value))

    @model_validator(mode="after")
    def _grids_make_sense(self) -> DataConfig:
        for resolution in self.resolutions:
            try:
                check_grid(resolution, self.tau_of(resolution) if resolution > 0 else 1.0)
            except UserError as err:
                raise ValueError(str(err)) from err
        return self

    def tau_of(self, resolution: int) -> float:
        """The truncation that this config asks for at a resolution, in unit-cube units."""
        return default_tau(resolution) if self.tau is None else self.tau

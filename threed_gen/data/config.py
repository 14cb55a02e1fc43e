"""The `data:` section of a run's config: which samples, at which resolutions, in which order."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from threed_gen.config import Config
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import check_grid, default_tau


class ProceduralConfig(Config):
    """The embedded data set, used when `data.path` is not given."""

    count: int = Field(default=16, ge=1)  # shapes; they cycle through the families
    seed: int = 0
    views: int = Field(default=8, ge=1)  # pictures of each, for tasks that look at pictures …
    view_size: int = Field(default=128, ge=8)  # … their side in pixels …
    view_law: Literal["paper", "trellis"] = "trellis"  # … and where the cameras stand


class FilterConfig(Config):
    """Which of the prepared samples a run sees; a rule that is not given leaves nothing out.

    A share is compared at the stored resolution where it is largest; a sample of which it is not
    known is left out. Tables write flags as tags (`is_scene`), reading a file does too (`skinned`).
    """

    split: Literal["all", "train", "held_out"] = "all"
    held_out_share: float | None = Field(default=None, ge=0, le=1)  # None: as `prepare` split them
    max_sheet_share: float | None = Field(default=None, ge=0, le=1)  # of open surface
    max_interior_share: float | None = Field(default=None, ge=0, le=1)  # of hidden surface
    min_score: float | None = None  # a sample without a score is left out
    licences: list[str] | None = None  # only these, for example [CC-BY, CC0]
    exclude_flags: list[str] = []  # any of these leaves a sample out

    @model_validator(mode="after")
    def _makes_sense(self) -> FilterConfig:
        if self.split == "all" and self.held_out_share is not None:
            raise ValueError("held_out_share has no effect while split is all")
        if self.licences is not None and not self.licences:
            raise ValueError("licences: give at least one, or leave the key out")
        return self


class RemoteConfig(Config):
    """How files are read where `data.path` is a URL (any that fsspec knows: https, s3, gs …)."""

    timeout: float = Field(default=60.0, gt=0)  # seconds that one request may take
    tries: int = Field(default=6, ge=1)  # per request; pauses between them double from 0.5 s
    options: dict[str, Any] = {}  # storage options of fsspec, for example {endpoint_url: …}


class StageConfig(Config):
    """Copies of shards on a disk of the node, made ahead of use."""

    dir: str | None = None  # a folder on a local disk; None: shards are read where they lie
    limit_gb: float = Field(default=200.0, gt=0)  # of 10^9 bytes, of all runs that share the folder
    ahead: int = Field(default=32, ge=1)  # steps: shards that these need are fetched


class DataConfig(Config):
    """Where samples come from and in which order they are seen."""

    # Folder made by `threed-gen prepare`, or the URL of one; None: procedural shapes.
    path: str | None = None
    remote: RemoteConfig = RemoteConfig()
    stage: StageConfig = StageConfig()
    procedural: ProceduralConfig = ProceduralConfig()
    resolutions: list[int] = [64]  # one of them is drawn for each step, the same on all ranks
    tau: float | None = None  # truncation in unit-cube units; None: each resolution's default
    filter: FilterConfig = FilterConfig()
    streams: int = Field(default=1, ge=1)  # canonical streams of whole shards; about 64 for TBs
    block: int = Field(default=64, ge=1)  # consecutive samples that are read together
    bucket: bool = False  # batches of samples of about one size: for 1 to 3 samples on a rank
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

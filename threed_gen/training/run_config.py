"""The whole configuration of a run: the sections that its rooms own, and training's own.

`task:` says which model is trained, and so which sections there are. Every key has the paper's
value as its default where the paper gives one. Configs live in `configs/<task>/<name>.yaml`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from threed_gen.config import Config, read_config_tree, validate
from threed_gen.data.config import DataConfig
from threed_gen.data.latents.config import LatentsConfig
from threed_gen.errors import UserError
from threed_gen.flow.sampler import SamplerConfig
from threed_gen.flow.times import TimeDensityConfig
from threed_gen.geometry.sparse_sdf import BRICK
from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.ss_dit import SSDiTConfig
from threed_gen.models.ss_vae import SSVAEConfig
from threed_gen.models.structure_dit import StructureDiTConfig
from threed_gen.models.structure_vae import StructureVAEConfig


class LossConfig(Config):
    """Weights of the SS-VAE's loss terms (Direct3D-S2, section 3.2 and appendix)."""

    inside_band: float = Field(default=1.0, ge=0)  # lambda_in: voxels of the input band
    extra: float = Field(default=0.1, ge=0)  # lambda_ext: decoded voxels outside the band
    sharp: float = Field(default=1.0, ge=0)  # lambda_sharp: band voxels near a sharp edge
    kl: float = Field(default=1e-3, ge=0)  # lambda_KL


class TrainConfig(Config):
    """Steps, batch, optimiser, precision, checkpoints."""

    steps: int = Field(default=1000, ge=1)
    batch_samples: int | None = Field(default=None, ge=1)  # samples of one global batch …
    batch_tokens: int | None = Field(default=None, ge=1)  # … or its latent tokens
    accumulation: int = Field(default=1, ge=1)  # micro-batches of a step on each rank

    learning_rate: float = Field(default=1e-4, gt=0)  # paper: 1e-4 up to 512, 1e-5 at 1024
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    final_lr_ratio: float = Field(default=0.02, ge=0, le=1)
    betas: list[float] = Field(default=[0.9, 0.99], min_length=2, max_length=2)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)  # 0 switches the average off

    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    deepspeed: str | None = None  # a DeepSpeed JSON to merge; must name the same ZeRO stage
    threads: int | None = Field(default=None, ge=1)  # CPU threads per rank; default: cores / ranks
    timeout_seconds: float = Field(default=600.0, gt=0)  # of every collective operation

    # A step whose loss or gradient is not finite, or whose loss is a spike, is left out; after more
    # than so many in a row the run stops. 0 stops at the first.
    max_skips: int = Field(default=0, ge=0)
    spike_factor: float | None = Field(default=None, gt=1)  # times the running average; None: never

    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    log_every: int = Field(default=1, ge=1)  # console lines; metrics.jsonl has every step
    validate_every: int = Field(default=1000, ge=1)
    wandb_project: str | None = None

    @model_validator(mode="after")
    def _one_batch_size(self) -> TrainConfig:
        if self.batch_samples is not None and self.batch_tokens is not None:
            raise ValueError("give train.batch_samples or train.batch_tokens, not both")
        if self.spike_factor is not None and self.max_skips == 0:
            raise ValueError("train.spike_factor needs train.max_skips of at least 1")
        return self


class ValidationConfig(Config):
    """The fixed validation set: the first shapes of the data set, the same at every check.

    With `data.filter.split: train` they are the first of those that are held out.
    """

    shapes: int = Field(default=8, ge=0)
    surface_samples: int = Field(default=200_000, ge=1000)  # per side, for distances and F-scores


class InitFrom(Config):
    """Weights to begin with, instead of fresh ones: the last stage of a progressive training."""

    path: str  # a run directory, or a .safetensors file
    weights: Literal["ema", "model"] = "ema"  # of a run: the average, or the parameters themselves
    partial: bool = False  # take what fits and print every name that does not; else all must fit


class RunConfig(Config):
    """One YAML, one run: what every task has."""

    task: str
    seed: int = 0  # of every draw: order, noise, times, and the first weights
    init_seed: int | None = None  # of the first weights alone; None: `seed`
    init_from: InitFrom | None = None
    data: DataConfig = DataConfig()
    model: Config  # the network; each task narrows it
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()


class SSVAERun(RunConfig):
    """Training an SS-VAE."""

    task: Literal["ss_vae"]
    model: SSVAEConfig = SSVAEConfig()
    loss: LossConfig = LossConfig()


class FlowConfig(Config):
    """Rectified flow in training: how often which time is looked at, and forgetting."""

    times: TimeDensityConfig = TimeDensityConfig()
    condition_dropout: float = Field(default=0.1, ge=0, le=1)  # unpublished; TRELLIS: 0.1


class FlowValidationConfig(ValidationConfig):
    """What validation asks an SS-DiT: its loss at fixed noise and times, and samples to look at."""

    times: int = Field(default=8, ge=1)  # (k + ½) / times, the same for every shape and check
    sampler: SamplerConfig = SamplerConfig()


class StructureLink(Config):
    """The structure stage that goes with an SS-DiT: `generate` asks it where the cells lie."""

    run: str  # run directory of a trained structure DiT
    weights: Literal["ema", "model"] = "ema"  # of `run`: the moving average, or the raw weights


class SSDiTRun(RunConfig):
    """Training an SS-DiT on the latents of a trained SS-VAE."""

    task: Literal["ss_dit"]
    model: SSDiTConfig = SSDiTConfig()
    latents: LatentsConfig
    structure: StructureLink | None = None  # not trained with, remembered in sources.json
    condition: ConditionConfig = ConditionConfig()
    flow: FlowConfig = FlowConfig()
    validation: FlowValidationConfig = FlowValidationConfig()


class StructureLossConfig(Config):
    """Weights of the structure VAE's loss terms: unpublished; in TRELLIS dice 1 and KL 1e-3."""

    bce: float = Field(default=1.0, ge=0)  # mean cross-entropy over all cells
    dice: float = Field(default=1.0, ge=0)  # says more of the few cells that exist
    kl: float = Field(default=1e-3, ge=0)


class StructureVAERun(RunConfig):
    """Training a structure VAE on the dense occupancy of latent cells."""

    task: Literal["structure_vae"]
    model: StructureVAEConfig = StructureVAEConfig()
    loss: StructureLossConfig = StructureLossConfig()
    threshold: float = Field(default=0.1, gt=0, lt=1)  # of a cell's probability; released: 0.1

    @model_validator(mode="after")
    def _grids_fit(self) -> StructureVAERun:
        for resolution in self.data.resolutions:
            if resolution // BRICK % self.model.factor:
                raise ValueError(
                    f"data.resolutions: {resolution} has {resolution // BRICK} latent cells per "
                    f"axis, which must be a multiple of {self.model.factor}"
                )
        return self


class StructureConfig(Config):
    """What a structure DiT denoises: latents of a structure VAE, or occupancy itself as ±scale."""

    run: str | None = None  # run directory of the trained structure VAE; None: occupancy itself
    weights: Literal["ema", "model"] = "ema"  # of `run`: the moving average, or the raw weights
    draw: Literal["mode", "sample"] = "mode"  # x0: the posterior's mean, or a fresh draw each step
    measure: int = Field(default=2000, ge=1)  # samples for the latents' statistics, evenly chosen
    normalise: bool = True  # by those statistics; false: latents as they are, as released
    scale: float = Field(default=1.0, gt=0)  # without `run`
    # A cell exists from this probability on (released: 0.1, so that few are missed); without `run`
    # of (x / scale + 1) / 2.
    threshold: float = Field(default=0.1, gt=0, lt=1)


class StructureValidationConfig(FlowValidationConfig):
    """As that of an SS-DiT; samples as the released dense stage does: shift 6, guidance 7."""

    sampler: SamplerConfig = SamplerConfig(steps=50)


class StructureDiTRun(RunConfig):
    """Training a structure DiT: from a picture or caption to the latent cells that exist."""

    task: Literal["structure_dit"]
    model: StructureDiTConfig = StructureDiTConfig()
    structure: StructureConfig = StructureConfig()
    condition: ConditionConfig = ConditionConfig()
    flow: FlowConfig = FlowConfig()
    validation: StructureValidationConfig = StructureValidationConfig()

    @model_validator(mode="after")
    def _grids_fit(self) -> StructureDiTRun:
        if len(self.data.resolutions) != 1:
            raise ValueError("data.resolutions: a structure DiT has one grid; give one resolution")
        cells = self.grid
        if self.structure.run is None and self.model.latent_channels != 1:
            raise ValueError(
                "model.latent_channels: occupancy has 1; set it, or give structure.run, the run "
                "directory of a trained structure VAE"
            )
        if self.structure.run is None and self.model.grid != cells:
            raise ValueError(
                f"model.grid: is {self.model.grid}, but resolution {self.data.resolutions[0]} has "
                f"{cells} latent cells per axis; set it to {cells}"
            )
        return self

    @property
    def grid(self) -> int:
        """Latent cells along an axis."""
        return self.data.resolutions[0] // BRICK


RUNS: dict[str, type[RunConfig]] = {
    "ss_vae": SSVAERun,
    "ss_dit": SSDiTRun,
    "structure_vae": StructureVAERun,
    "structure_dit": StructureDiTRun,
}


def load_run_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run's YAML with `key=value` overrides; errors name the key and the cure."""
    tree = read_config_tree(path, overrides or [])
    task = tree.get("task")
    if task not in RUNS:
        close = difflib.get_close_matches(str(task), RUNS, n=1, cutoff=0.4)
        known = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(RUNS)}"
        said = f"no task '{task}'" if "task" in tree else "key 'task' is missing"
        raise UserError(f"{path}: {said}; {known}")
    return validate(RUNS[task], tree, source=str(path))

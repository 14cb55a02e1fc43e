"""The whole configuration of a run: the sections that its rooms own, and training's own.

Every key has the paper's value as its default where the paper gives one. Configs live in
`configs/<task>/<name>.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from threed_gen.config import Config, load_config
from threed_gen.data.config import DataConfig
from threed_gen.models.ss_vae import SSVAEConfig


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

    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    log_every: int = Field(default=1, ge=1)  # console lines; metrics.jsonl has every step
    validate_every: int = Field(default=1000, ge=1)
    wandb_project: str | None = None

    @model_validator(mode="after")
    def _one_batch_size(self) -> TrainConfig:
        if self.batch_samples is not None and self.batch_tokens is not None:
            raise ValueError("give train.batch_samples or train.batch_tokens, not both")
        return self


class ValidationConfig(Config):
    """The fixed validation set: the first shapes of the data set, the same at every check.

    With `data.filter.split: train` they are the first of those that are held out.
    """

    shapes: int = Field(default=8, ge=0)
    surface_samples: int = Field(default=200_000, ge=1000)  # per side, for distances and F-scores


class RunConfig(Config):
    """One YAML, one run."""

    task: Literal["ss_vae"]
    seed: int = 0  # of every draw: order, posterior noise, and the first weights
    init_seed: int | None = None  # of the first weights alone; None: `seed`
    data: DataConfig = DataConfig()
    model: SSVAEConfig = SSVAEConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()


def load_run_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run's YAML with `key=value` overrides; errors name the key and the cure."""
    return load_config(RunConfig, path, overrides or [])

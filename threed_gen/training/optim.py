"""The optimiser and its learning rate: torch AdamW, linear warm-up, cosine to a floor.

torch's own AdamW is used at every ZeRO stage: DeepSpeed's C++ variants need a compiler and do not
continue bitwise after a resume.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from threed_gen.training.run_config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step` (counted from 0), a pure function of the config."""
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.steps - warmup)
    floor = config.final_lr_ratio
    scale = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * scale


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; biases and norm scales (one-dimensional parameters) are not decayed."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Under ZeRO-3 a parameter's own shape may already be that of an empty shard.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decay if len(shape) > 1 else keep).append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
    # foreach=False: the order of the arithmetic stays the same however parameters are grouped.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        foreach=False,
    )

"""Small RGBA pictures, and a tiny random DINOv2 with registers as `save_pretrained` writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

CHANNELS, REGISTERS, PATCH = 32, 4, 14


def random_rgba(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Colours everywhere, an elliptic foreground off the middle with a soft edge."""
    draw = np.random.default_rng(seed)
    rgba = draw.integers(0, 256, (height, width, 4), np.uint8)
    y, x = np.mgrid[:height, :width]
    centre = draw.uniform(0.4, 0.6, 2) * (height, width)
    radius = draw.uniform(0.15, 0.35, 2) * (height, width)
    away = np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1])
    rgba[..., 3] = np.clip((1.2 - away) * 500, 0, 255).astype(np.uint8)
    return rgba


def transparent(side: int = 40) -> NDArray[np.uint8]:
    """A picture of nothing."""
    return np.zeros((side, side, 4), np.uint8)


def save_dino(folder: Path, size: int = 56, seed: int = 0) -> Path:
    """A DINOv2 with registers of random weights, none of them zero or one."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(seed)
    model = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=CHANNELS,
            num_hidden_layers=2,
            num_attention_heads=4,
            mlp_ratio=2,
            patch_size=PATCH,
            image_size=size,
            num_register_tokens=REGISTERS,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder

"""Frozen DINOv2 with registers: what the released models see pictures through.

The tokens are those of the last block, before the model's own norm, through a norm without
weights, as the released code takes them from `torch.hub` (there `x_prenorm`). Order: cls,
registers, patches row by row.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed_gen.errors import UserError
from threed_gen.models.conditioning.frozen import Frozen, Precision, as_bytes_of, load_frozen
from threed_gen.models.conditioning.picture import VERSION
from threed_gen.models.conditioning.sparse import TokenLayout

CLASSES = {"dinov2_with_registers": "Dinov2WithRegistersModel"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What matters besides the weights and their shapes.
SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size")


class FrozenDino(Frozen):
    """Pictures [B, 4, S, S] -> tokens [B, 1 + R + (S / patch)², C], float32, without gradient."""

    def __init__(self, source: str, size: int, precision: Precision = "fp32") -> None:
        """Raises UserError when `source` cannot be loaded or `size` is no multiple of its patch."""
        model = load_frozen(source, CLASSES, "condition.source")
        super().__init__(model, precision)
        settings = model.config
        patch = int(settings.patch_size)
        if size % patch:
            raise UserError(
                f"condition.size: {size} must be a multiple of {patch}, the patch of {source}"
            )
        self.layout = TokenLayout(size, patch, 1 + int(settings.num_register_tokens))
        self.channels = int(settings.hidden_size)
        model.layernorm = nn.Identity()  # so that the model returns the tokens before its norm
        self._statistics = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])

    def __call__(self, pictures: Tensor) -> Tensor:
        size = self.layout.size
        assert pictures.shape[1:] == (4, size, size)
        mean, std = self._statistics.to(pictures.device, non_blocking=True)[..., None, None].unbind(
            0
        )
        with self.running(pictures.device) as model:
            tokens: Tensor = model((pictures[:, :3].float() - mean) / std).last_hidden_state
        assert tokens.shape[1:] == (self.layout.count, self.channels)
        return F.layer_norm(tokens.float(), (self.channels,))

    def identity(self) -> str:
        """sha256 of everything besides the picture's pixels that decides the features."""
        settings = {name: getattr(self.model.config, name, None) for name in SETTINGS}
        settings |= {"size": self.layout.size, "precision": self.precision, "picture": VERSION}
        return hashlib.sha256(self.digest().encode() + as_bytes_of(settings)).hexdigest()

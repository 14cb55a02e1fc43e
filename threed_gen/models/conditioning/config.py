"""The `condition:` section of a run's config: who looks at pictures or reads captions, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from threed_gen.config import Config
from threed_gen.models.conditioning.picture import RELEASED_SIZE


class PatchesConfig(Config):
    """Sizes of the built-in patch encoder. It is trained along and knows nothing beforehand."""

    patch: int = Field(default=8, ge=1)  # pixels
    channels: int = Field(default=64, ge=6)
    layers: int = Field(default=2, ge=0)  # transformer blocks among the patches of one picture
    heads: int = Field(default=4, ge=1)
    mlp_ratio: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> PatchesConfig:
        if self.channels % self.heads:
            raise ValueError(f"heads {self.heads} must divide channels {self.channels}")
        return self


class TextConfig(Config):
    """Captions as the condition; the default encoder is that of TRELLIS."""

    source: str = "openai/clip-vit-large-patch14"  # CLIP or T5: hub id or folder
    precision: Literal["fp32", "bf16"] = "fp32"
    max_tokens: int = Field(default=77, ge=2)  # longer captions are cut (and counted)


class ConditionConfig(Config):
    """What the model is told; the defaults are those of the released model 1.1."""

    # patches: small, built in, trained along; text: captions instead of pictures
    encoder: Literal["dinov2", "patches", "text"] = "dinov2"
    source: str = "facebook/dinov2-with-registers-large"  # dinov2: hub id or folder
    precision: Literal["fp32", "bf16"] = "fp32"  # dinov2: of its matrix products
    size: int = Field(default=RELEASED_SIZE, ge=8)  # side of a picture; a multiple of the patch
    sparse: bool = False  # released 1.0: only patches that show the shape, and cls and registers
    augment: bool = True  # show a training picture a little differently each time
    variants: int | None = Field(default=None, ge=1)  # ways to show one; None: ever new ones
    held_out_views: int = Field(default=0, ge=0)  # of each shape: shown in validation alone
    cache: str | None = None  # dinov2: folder of stored features; None: encode in every step
    cache_precision: Literal["fp16", "fp32"] = "fp16"
    patches: PatchesConfig = PatchesConfig()
    text: TextConfig = TextConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> ConditionConfig:
        if self.encoder == "text":
            for key in ("source", "sparse", "cache", "variants", "held_out_views"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is of pictures; with encoder text leave the key out")
            return self
        if self.encoder == "patches":
            if self.cache is not None:
                raise ValueError("cache: the patch encoder is trained along, leave the key out")
            if self.size % self.patches.patch:
                raise ValueError(
                    f"size {self.size} must be a multiple of patches.patch {self.patches.patch}"
                )
        if self.variants is not None and not self.augment:
            raise ValueError("variants has no effect while augment is false")
        if self.cache is not None and self.augment and self.variants is None:
            raise ValueError(
                "cache: an ever new augmentation is never found again; "
                "give variants (for example 4), or augment: false"
            )
        return self

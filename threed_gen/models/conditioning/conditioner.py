"""Conditioner: pictures in, packed condition tokens out.

    source = conditioner.source                        # into the loader's workers
    item = source.read(view.rgba, view.sha256, draw)   # one picture, or its stored features
    batch = source.pack(items).to(device)              # one for each sample
    condition = conditioner(batch)                     # PackedTokens, for SS-DiT

The encoder is the built-in one, which is trained along and whose parameters are the module's, or a
frozen DINOv2, which is neither a parameter nor in the state.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.conditioning.dinov2 import FrozenDino
from threed_gen.models.conditioning.feature_cache import FeatureCache, open_cache
from threed_gen.models.conditioning.patch_encoder import PatchEncoder
from threed_gen.models.conditioning.source import PictureBatch, PictureSource
from threed_gen.models.layers.cross_attention import PackedTokens


class Conditioner(nn.Module):
    """Tokens of pictures; see the head of this file.

    Attributes:
        channels: width C' of the tokens, `SSDiTConfig.condition_channels`.
        tokens_per_picture: without sparse conditioning; with it, the most there can be.
        source: prepares pictures for this conditioner.
        hits: pictures so far whose features were in the cache.
        misses: pictures so far that were encoded.
    """

    def __init__(
        self, config: ConditionConfig, encoder: PatchEncoder | FrozenDino,
        cache: FeatureCache | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = encoder  # a submodule when it is trained
        self.channels = encoder.channels
        self.source = PictureSource(config, encoder.layout, cache)
        self.tokens_per_picture = encoder.layout.count
        self.hits = self.misses = 0

    @property
    def trains(self) -> bool:
        """Whether the encoder's parameters are trained along."""
        return isinstance(self.encoder, PatchEncoder)

    def forward(self, batch: PictureBatch) -> PackedTokens:
        """The tokens of B pictures, in the order and on the device of the batch.

        With a frozen encoder float32 and without gradient. Pictures whose features are missing are
        encoded together and, where there is a cache, stored.
        """
        parts = [batch.pictures.new_zeros(0, self.channels)]
        if len(batch.pictures):
            parts.append(self._encoded(batch))
        if batch.stored is not None:
            parts.append(batch.stored.float())
            self.hits += len(batch.seqlens) - len(batch.lengths)
        feats = torch.cat(parts)
        if batch.order is not None:
            feats = feats[batch.order]
        return PackedTokens(feats, batch.cu_seqlens, batch.seqlens, batch.positions)

    def _encoded(self, batch: PictureBatch) -> Tensor:
        """Used tokens of the pictures of the batch. [K, C]."""
        cache = self.source.cache
        if cache is None or not any(batch.keys):
            self.misses += len(batch.pictures)
            used: Tensor = self.encoder(batch.pictures).flatten(0, 1)[batch.rows]
            return used
        # Looked up once more: since the loader looked, an earlier step may have stored them.
        found = [None if key is None else cache.load(key) for key in batch.keys]
        new = [i for i, features in enumerate(found) if features is None]
        self.hits += len(found) - len(new)
        self.misses += len(new)
        rows = batch.rows.split(batch.lengths)
        parts: list[Tensor] = []
        encoded = iter(self.encoder(batch.pictures[new]) if new else ())
        for i, (key, features) in enumerate(zip(batch.keys, found, strict=True)):
            if features is not None:
                parts.append(features[0].to(batch.pictures.device).float())
                continue
            tokens = rows[i] - i * self.tokens_per_picture
            used = next(encoded)[tokens]
            if key is not None:
                cache.store(key, used, tokens)
                used = cache.rounded(used).float()
            parts.append(used)
        return torch.cat(parts)


def build_conditioner(config: ConditionConfig) -> Conditioner:
    """The conditioner that a config describes.

    Raises UserError, one line, when the frozen encoder cannot be loaded, does not fit the size, or
    the cache cannot be made.
    """
    if config.encoder == "patches":
        return Conditioner(config, PatchEncoder(config.patches, config.size))
    dino = FrozenDino(config.source, config.size, config.precision)
    cache = None
    if config.cache is not None:
        kind = f"{dino.identity()} {'sparse' if config.sparse else 'all'}".encode()
        identity = hashlib.sha256(kind).hexdigest()
        cache = open_cache(config.cache, identity, config.cache_precision)
    return Conditioner(config, dino, cache)

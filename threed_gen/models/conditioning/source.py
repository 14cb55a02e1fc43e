"""From a view to what the conditioner takes: the part that lives in the loader's workers.

`PictureSource.read` prepares one picture, or finds its features in the cache and need not;
`pack` makes a batch of several, with every index that the model will want, so that nothing is read
back from a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed_gen.models.conditioning.augment import draw_augmentation
from threed_gen.models.conditioning.config import ConditionConfig
from threed_gen.models.conditioning.feature_cache import FeatureCache
from threed_gen.models.conditioning.picture import PLAIN, prepare_picture
from threed_gen.models.conditioning.sparse import TokenLayout
from threed_gen.randomness import generator as keyed_generator


@dataclass(frozen=True)
class PictureItem:
    """One picture of one sample, as a loader's worker hands it over."""

    tokens: Tensor  # int64 [K], which of its tokens enter cross-attention
    picture: Tensor | None  # float32 [4, S, S]; None when the features are there
    features: Tensor | None  # [K, C] from the cache
    key: str | None  # under which the cache is to keep the features


@dataclass(frozen=True)
class PictureBatch:
    """The pictures of B samples. M of them have to be encoded, of the others features are stored.

    Attributes:
        pictures: float32 [M, 4, S, S].
        rows: int64 [K of the M], which of their tokens [M * T] are used.
        stored: [K of the others, C], as the cache keeps them; None when there are none.
        order: int64 [K of all], row in (used, stored) of each token of the batch; None: as it is.
        positions: int32 [K of all, 3].
        cu_seqlens: int32 [B + 1], first token of each sample; `seqlens` the same on the host.
        keys: of the M pictures in the cache; None where nothing is to be kept.
        lengths: tokens used of each of the M pictures.
    """

    pictures: Tensor
    rows: Tensor
    stored: Tensor | None
    order: Tensor | None
    positions: Tensor
    cu_seqlens: Tensor
    seqlens: tuple[int, ...]
    keys: tuple[str | None, ...]
    lengths: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PictureBatch:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if torch.is_tensor(value)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class PictureSource:
    """Reads and packs pictures as the encoder wants them. Small, and can be pickled."""

    config: ConditionConfig
    layout: TokenLayout
    cache: FeatureCache | None

    def read(
        self, rgba: NDArray[np.uint8], identity: str | None = None,
        generator: torch.Generator | None = None,
    ) -> PictureItem:  # fmt: skip
        """One picture.

        Args:
            rgba: [H, W, 4], sRGB with straight alpha.
            identity: sha256 of the picture; None: its features are never stored.
            generator: draws how it is shown where the config says `augment`; None: as when testing.

        Raises UserError when `rgba` is no picture or its stored features are damaged.
        """
        config, augmentation, variant = self.config, PLAIN, None
        if generator is not None and config.augment:
            if config.variants is None or identity is None:
                augmentation = draw_augmentation(generator)  # never stored: see the config
            else:
                variant = int(torch.randint(config.variants, (), generator=generator))
                # The picture's own k-th one: the same in every run, whatever its seed.
                own = keyed_generator(0, variant, f"augmentation of {identity}")
                augmentation = draw_augmentation(own)
        key = None
        if self.cache is not None and identity is not None:
            key = self.cache.key(identity, variant)
            found = self.cache.load(key)
            if found is not None:
                return PictureItem(tokens=found[1], picture=None, features=found[0], key=key)
        picture = prepare_picture(rgba, config.size, augmentation)
        layout = self.layout
        tokens = layout.foreground_tokens(picture[3]) if config.sparse else layout.all_tokens()
        return PictureItem(tokens, picture, None, key)

    def pack(self, items: Sequence[PictureItem]) -> PictureBatch:
        """The pictures of a batch, one for each sample."""
        layout = self.layout
        lengths = [len(item.tokens) for item in items]
        new = [i for i, item in enumerate(items) if item.features is None]
        pictures = [item.picture for item in items if item.picture is not None]
        assert len(pictures) == len(new)
        stored = [item.features for item in items if item.features is not None]
        blank = torch.zeros(0, 4, layout.size, layout.size)
        none = torch.zeros(0, dtype=torch.long)
        rows = [items[i].tokens + number * layout.count for number, i in enumerate(new)]
        tokens = torch.cat([none, *(item.tokens for item in items)])
        return PictureBatch(
            pictures=torch.stack(pictures) if pictures else blank,
            rows=torch.cat([none, *rows]),
            stored=torch.cat(stored) if stored else None,
            order=_order(lengths, new) if stored and pictures else None,
            positions=layout.positions(tokens),
            cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
            seqlens=tuple(lengths),
            keys=tuple(items[i].key for i in new),
            lengths=tuple(lengths[i] for i in new),
        )


def _order(lengths: Sequence[int], first: Sequence[int]) -> Tensor:
    """Where each sample's tokens are when those of samples `first` come first. int64 [sum]."""
    chosen = set(first)
    sequence = [*first, *(i for i in range(len(lengths)) if i not in chosen)]
    starts = dict(
        zip(sequence, accumulate((lengths[i] for i in sequence), initial=0), strict=False)
    )
    return torch.cat([torch.arange(n) + starts[i] for i, n in enumerate(lengths)])

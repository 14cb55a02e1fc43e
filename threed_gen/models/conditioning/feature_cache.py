"""Features of a frozen encoder on disk, so that training need not run it again.

One safetensors file per picture, augmentation and encoder, in two levels of folders. The key is a
sha256 of the picture's identity, the number of its augmentation and the encoder's identity (its
weights, its preprocessing, its precision); whatever changes one of them misses, and never finds the
wrong features. A file appears when it is whole; ranks on any machine may write the same one.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from threed_gen.errors import UserError, disk_errors
from threed_gen.files import write_atomically

FORMAT = "features-1"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features. It holds no state, so workers and ranks may all have one.

    encoder: identity of what makes the features, everything that they depend on but the picture.
    """

    folder: Path
    encoder: str
    precision: Literal["fp16", "fp32"] = "fp16"

    def key(self, picture: str, variant: int | None) -> str:
        """Name of the features of a picture; variant: its augmentation's number, None without."""
        parts = (FORMAT, self.precision, self.encoder, str(variant), picture)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def path(self, key: str) -> Path:
        """Where the features of a key are, or would be."""
        return self.folder / key[:2] / key[2:4] / f"{key}.safetensors"

    def rounded(self, features: Tensor) -> Tensor:
        """What `load` would give back after `store`: a miss and a hit then say the same."""
        return features.to(DTYPES[self.precision])

    def load(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Features [K, C] as stored and their tokens int64 [K]; None when there are none.

        Raises UserError when the file is damaged.
        """
        path = self.path(key)
        try:
            # Read at once: `safe_open` opens the name again for each tensor, and would mix two
            # files where another rank replaces this one in between.
            parts = load(path.read_bytes())
        except FileNotFoundError:
            return None
        except SafetensorError as err:
            raise UserError(f"{path}: damaged features ({err}); delete it") from err
        if set(parts) != {"features", "tokens", "crc32"}:
            raise UserError(f"{path}: damaged features (of other names); delete it")
        if not torch.equal(parts["crc32"], _crc32(parts["features"], parts["tokens"])):
            raise UserError(f"{path}: damaged features (wrong checksum); delete it")
        return parts["features"], parts["tokens"].long()

    def store(self, key: str, features: Tensor, tokens: Tensor) -> None:
        """Keep features [K, C] of tokens [K]. Raises DiskError when the disk is full."""
        features, tokens = self.rounded(features.detach().cpu()), tokens.cpu().int()
        parts = {"features": features.contiguous(), "tokens": tokens.contiguous()}
        content = save(parts | {"crc32": _crc32(features, tokens)})
        path = self.path(key)
        # A name of its own: processes of two machines may have the same number.
        own = path.with_name(f"{key}.{uuid4().hex}.part")
        write_atomically(own, content, "features")
        with disk_errors(path, "features"):
            own.replace(path)


def open_cache(folder: str, encoder: str, precision: Literal["fp16", "fp32"]) -> FeatureCache:
    """The cache in `folder`, which is made. Raises UserError when that is not possible."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(
            f"condition.cache: {path} cannot be made ({err.strerror}); name another folder"
        ) from err
    return FeatureCache(path, encoder, precision)


def _crc32(*parts: Tensor) -> Tensor:
    """Of all bytes. int64 []."""
    value = 0
    for part in parts:
        value = zlib.crc32(part.contiguous().view(torch.uint8).numpy().data, value)
    return torch.tensor(value)

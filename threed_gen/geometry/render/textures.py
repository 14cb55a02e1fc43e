"""Images that a mesh file brings along: decoded with limits, and never a reason to fail.

The header is judged before a pixel is decoded, so an image that claims to be enormous costs
nothing. Large ones are made smaller, because a picture of 512 pixels cannot show them. An image
that cannot be had leaves a flag (PAINT_FLAGS in paint.py) and the faces their neutral colour.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed_gen.geometry.mesh import MeshError

MOST_PIXELS = 8192 * 8192  # of one image in its file; more is taken for a bomb
LARGEST_SIDE = 2048  # pixels that are kept of an image
MOST_KEPT = 100_000_000  # pixels of all images of an asset together, as they are kept
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF")
_FLAG_OF_REASON = {
    "missing_file": "texture_missing",
    "outside_reference": "texture_outside",
    "too_large": "texture_too_large",
}


class TextureError(Exception):
    """An image that cannot be used; the message is its flag."""


class Textures:
    """The images of one asset, each decoded once."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []  # each [H, W, 4]
        self.flags: set[str] = set()
        self._numbers: dict[object, int] = {}
        self._kept = 0

    def number(self, key: object, fetch: Callable[[], bytes]) -> int:
        """The number of an image in `images`, -1 if it cannot be had; `key` tells it apart."""
        if key not in self._numbers:
            self._numbers[key] = self._add(fetch)
        return self._numbers[key]

    def _add(self, fetch: Callable[[], bytes]) -> int:
        try:
            image = decoded(fetch())
            if self._kept + image.shape[0] * image.shape[1] > MOST_KEPT:
                raise TextureError("texture_too_large")
        except TextureError as err:
            self.flags.add(str(err))
            return -1
        except MeshError as err:  # of the places that bytes come from
            self.flags.add(_FLAG_OF_REASON.get(err.reason, "texture_unreadable"))
            return -1
        self._kept += image.shape[0] * image.shape[1]
        self.images.append(image)
        return len(self.images) - 1


def decoded(content: bytes) -> NDArray[np.uint8]:
    """An image as uint8 [H, W, 4], sRGB with straight alpha; TextureError if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is judged here
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise TextureError("texture_too_large")
                if width < 1 or height < 1:
                    raise TextureError("texture_unreadable")
                largest = max(width, height)
                if largest > LARGEST_SIDE:
                    image.draft("RGB", (LARGEST_SIDE, LARGEST_SIDE))  # JPEG: decodes fewer
                return _small(_rgba(image))
    except Image.DecompressionBombError:
        raise TextureError("texture_too_large") from None
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError) as err:
        # What Pillow's readers raise for damaged files (UnidentifiedImageError is an OSError).
        raise TextureError("texture_unreadable") from err


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I"):  # 16-bit grey; Pillow would clip it, not scale it
        grey = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    return image.convert("RGBA")


def _small(image: Image.Image) -> NDArray[np.uint8]:
    largest = max(image.size)
    if largest > LARGEST_SIDE:
        share = LARGEST_SIDE / largest
        width, height = (max(1, round(side * share)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.array(image, dtype=np.uint8)

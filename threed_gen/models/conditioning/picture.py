"""From an image file to what an encoder sees, as the released pipeline prepares it.

Crop to what is not transparent, composite on white, pad to a square, resize, add a margin, resize
again. The released code resizes Pillow images of 8 bits: `bilinear` there is a triangle filter that
widens when it shrinks a picture (in PyTorch's words: antialias=True), rounded to 8 bits after each
pass; masks take the nearest pixel. Pillow does the same here, so the pixels are the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from threed_gen.errors import UserError
from threed_gen.models.conditioning.augment import Augmentation

VERSION = 1  # of the preprocessing: stored features are of another kind when it changes
RELEASED_SIZE = 518
FEWEST = 0.001  # share of visible pixels under which nothing is cropped away
FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MOST_PIXELS = 1 << 26
PLAIN = Augmentation()


def read_rgba(path: Path) -> NDArray[np.uint8]:
    """The pixels of an image file, [H, W, 4]; without transparency all of it is foreground.

    Grey and palette images become RGBA, photographs are turned upright. Raises UserError when there
    is no such file, or it is damaged, no PNG, JPEG or WebP, of more than 8 bits per channel, or of
    more than 2²⁶ pixels.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such image file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{path}: {image.width} x {image.height} pixels, make it smaller")
            if image.mode not in MODES:
                raise UserError(f"{path}: mode {image.mode}, save it with 8 bits per channel")
            return np.array(ImageOps.exif_transpose(image).convert("RGBA"))
    except UnidentifiedImageError as err:
        raise UserError(f"{path}: no PNG, JPEG or WebP image") from err
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise UserError(f"{path}: damaged image, save it anew ({err})") from err


def prepare_picture(
    rgba: NDArray[np.uint8], size: int, augmentation: Augmentation = PLAIN
) -> Tensor:
    """The picture as an encoder sees it.

    Args:
        rgba: [H, W, 4], sRGB with straight alpha. May be transparent everywhere: the mask is then
            zero everywhere.
        size: side in pixels; released: 518.

    Returns:
        float32 [4, size, size]: colour over white in [0, 1], then the mask in [0, 1].
        Raises UserError when `rgba` is no such array.
    """
    rgba = np.asarray(rgba)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8 or not rgba.size:
        raise UserError(
            f"picture: got {rgba.dtype} {list(rgba.shape)}, it must be uint8 [H, W, 4] (RGBA)"
        )
    shown = _visible_part(rgba) / 255.0  # float64, and 8 bits by truncation: as released
    alpha = shown[..., 3:]
    colour = shown[..., :3] * alpha + (1 - alpha)
    margin = round(augmentation.margin * size / RELEASED_SIZE)
    rgb, mask = (
        _place(_image(part), white, size, margin, augmentation, how)
        for part, white, how in (
            (colour, (255, 255, 255), Image.Resampling.BILINEAR),
            (alpha[..., 0], (0,), Image.Resampling.NEAREST),
        )
    )
    pixels = np.concatenate([rgb, mask[..., None]], axis=2)  # [S, S, 4]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def _visible_part(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The box of pixels that are not fully transparent; everything when they are too few."""
    visible = rgba[..., 3] > 0
    if visible.sum() < visible.size * FEWEST or not visible.any():
        return rgba
    (rows,), (columns,) = visible.any(1).nonzero(), visible.any(0).nonzero()
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _image(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((values * 255).astype(np.uint8))


def _place(
    image: Image.Image, fill: tuple[int, ...], size: int, margin: int, how_shown: Augmentation,
    resampling: Image.Resampling,
) -> NDArray[np.uint8]:  # fmt: skip
    """Square, turned, cropped, resized, with a margin, resized again. [size, size(, 3)]."""
    image = _on_canvas(image, max(image.size), fill)
    if how_shown.angle:
        image = image.rotate(how_shown.angle, Image.Resampling.NEAREST, fillcolor=_colour(fill))
    side = max(1, int(image.width * how_shown.share))
    top, left = (int(place * (image.width - side + 1)) for place in how_shown.corner)
    image = image.crop((left, top, left + side, top + side)).resize((size, size), resampling)
    image = _on_canvas(image, size + 2 * margin, fill).resize((size, size), resampling)
    return np.array(image)


def _on_canvas(image: Image.Image, side: int, fill: tuple[int, ...]) -> Image.Image:
    """In the middle of a square; of an odd pixel more below and on the right."""
    canvas = Image.new(image.mode, (side, side), _colour(fill))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _colour(fill: tuple[int, ...]) -> int | tuple[int, ...]:
    return fill[0] if len(fill) == 1 else fill

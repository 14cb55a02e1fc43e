"""Pictures that people bring, as RGBA with the shape in front of transparency.

A picture is untrusted: it is decoded in a child process with limits on time and memory, by the
formats that Pillow reads well (PNG, JPEG, WebP), told by content and not by name. What the shape is
says the alpha channel. Where there is none, the person has to say: the whole picture, or what a
background remover leaves of it (an extra package, loaded only then).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from threed_gen.data.workers import Limits, Lost, run_tasks
from threed_gen.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 1 << 26
LIMITS = Limits(seconds=60.0, memory_mb=2500)
SEEN = 128  # alpha from which a pixel belongs to the shape
FEWEST = 0.001  # share of pixels that make a foreground, or a background
REMOVER = "birefnet-general"  # the released pipeline's kind
Background = Literal["keep", "remove"]
RGBA = NDArray[np.uint8]  # [H, W, 4], straight alpha

DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


def read_images(paths: Sequence[Path], background: Background | None = None) -> list[RGBA]:
    """The pictures, decoded one by one in a child process.

    Args:
        background: what to do with a picture that has no transparency; None: refuse it.

    Raises UserError, one line that names the file, for whatever is no picture of a shape.
    """
    found: dict[Path, RGBA] = {}
    for path, rgba, problem in run_tasks(_decoded, list(dict.fromkeys(paths)), 1, _lost, LIMITS):
        if problem is not None:
            raise UserError(problem)
        assert rgba is not None
        found[path] = with_foreground(rgba, path, background)
    return [found[path] for path in paths]


def decode_image(path: Path) -> RGBA:
    """The pixels of an image file: upright, 8 bits per channel, opaque where it has no alpha.

    Raises UserError when it is missing, damaged, moving, too large or of another format.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give image files")
    if not path.is_file():
        raise UserError(f"{path}: no such image file")
    try:
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty")
        with _any_size(), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width:,} x {image.height:,}"
                raise UserError(
                    f"{path}: {size} pixels are too many (at most 2²⁶); make it smaller"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # photographs of telephones hold a preview
                raise UserError(f"{path}: moves ({frames} frames); save one of them as a picture")
            return _as_rgba(image)
    except UnidentifiedImageError as err:
        raise UserError(f"{path}: is no PNG, JPEG or WebP image, whatever its name") from err
    except DAMAGED as err:
        what = " ".join(str(err).split())[:120] or type(err).__name__
        raise UserError(f"{path}: damaged image, save it anew ({what})") from err


def with_foreground(rgba: RGBA, path: Path, background: Background | None) -> RGBA:
    """The picture with transparency behind the shape; UserError when nothing says what it is."""
    alpha = rgba[..., 3]
    if (alpha > 0).mean() < FEWEST:
        raise UserError(f"{path}: every pixel is transparent, so there is no shape to see")
    if (alpha < SEEN).mean() >= FEWEST or background == "keep":
        return rgba
    if background is None:
        raise UserError(
            f"{path}: has no transparency that says what the shape is; save it with an alpha "
            "channel, or give --background remove (after `pip install 'threed-gen[background]'`), "
            "or --background keep to take all of it"
        )
    removed = _removed(rgba, path)
    if (removed[..., 3] >= SEEN).mean() < FEWEST:
        raise UserError(f"{path}: the background remover left nothing; cut the shape out by hand")
    return removed


def _as_rgba(image: Image.Image) -> RGBA:
    upright = ImageOps.exif_transpose(image)
    if not upright.mode.startswith("I"):
        return np.array(upright.convert("RGBA"))
    # 16-bit grey: Pillow would cut it off at 255 instead of scaling it.
    grey = np.clip(np.array(upright, dtype=np.int64), 0, 65535)
    clear = image.info.get("transparency")
    alpha = np.where(grey == clear, 0, 255) if isinstance(clear, int) else np.full_like(grey, 255)
    level = (grey + 128) // 257
    return np.stack([level, level, level, alpha], axis=-1).astype(np.uint8)


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow open pictures of any size: the size is judged here, before anything is decoded."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _removed(rgba: RGBA, path: Path) -> RGBA:
    try:
        import rembg
    except (ImportError, SystemExit) as err:  # rembg leaves where its runtime is missing
        raise UserError(
            "--background remove needs a package that is not installed: "
            "pip install 'threed-gen[background]'"
        ) from err
    remove: Callable[..., Any] = rembg.remove
    try:  # the first use downloads the remover's weights
        cut = remove(Image.fromarray(rgba[..., :3]), session=rembg.new_session(REMOVER))
    except (OSError, ValueError, RuntimeError) as err:
        what = " ".join(str(err).split())[:200]
        raise UserError(f"{path}: the background remover failed ({what})") from err
    return np.array(cut.convert("RGBA"))


_Answer = tuple[Path, RGBA | None, str | None]  # one of pixels and problem


def _decoded(path: Path) -> _Answer:
    try:
        return path, decode_image(path), None
    except UserError as err:
        return path, None, str(err)


def _lost(path: Path, why: Lost) -> _Answer:
    return path, None, f"{path}: damaged image, save it anew ({why.message})"

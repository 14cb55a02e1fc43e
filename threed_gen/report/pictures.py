"""Contact sheets: rows of small pictures with labels, as one image.

Pillow draws the labels with the font it carries, so a sheet looks the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

Pixels = npt.NDArray[np.uint8]

PAPER = (244, 244, 246)
INK = (38, 42, 51)
FAINT = (122, 128, 140)
GAP = 10
MARGIN = 24


@dataclass(frozen=True)
class Row:
    """One labelled row of equally sized pictures."""

    label: str
    images: Sequence[Pixels]  # each uint8 [H, W, 3]
    note: str = ""  # smaller, under the label


def contact_sheet(
    rows: Sequence[Row], columns: Sequence[str] = (), title: str = "", across: int = 1
) -> Image.Image:
    """Rows of pictures, one under the other, or `across` of them side by side.

    Args:
        rows: all with pictures of one size; labels stand above their pictures.
        columns: headings of the pictures within a row.
        title: one line on top.
        across: how many rows stand side by side.

    Returns:
        An RGB image.
    """
    if not rows:
        return _empty(title)
    side_y, side_x = rows[0].images[0].shape[:2]
    count = max(len(row.images) for row in rows)
    label_font, note_font = _font(max(13, side_x // 14)), _font(max(11, side_x // 18))
    head = int(label_font.size * 1.5 + (note_font.size * 1.4 if any(r.note for r in rows) else 0))
    title_font = _font(max(18, side_x // 10))
    top = MARGIN + (int(title_font.size * 1.9) if title else 0)
    top += int(note_font.size * 1.8) if any(columns) else 0
    cell = (count * side_x + (count - 1) * GAP, head + side_y + 2 * GAP)
    across = min(across, len(rows))
    lines = -(-len(rows) // across)
    gutter = MARGIN if across > 1 else 0
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + across * cell[0] + (across - 1) * gutter, top + lines * cell[1] + GAP),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 4), _printable(title), INK, font=title_font)
    for block in range(across):
        for number, heading in enumerate(columns):
            x = MARGIN + block * (cell[0] + gutter) + number * (side_x + GAP)
            draw.text((x, top - int(note_font.size * 1.6)), heading, FAINT, font=note_font)
    for number, row in enumerate(rows):
        x = MARGIN + (number % across) * (cell[0] + gutter)
        y = top + (number // across) * cell[1]
        draw.text((x, y), _fit(row.label, label_font, cell[0]), INK, font=label_font)
        if row.note:
            place = (x, y + int(label_font.size * 1.35))
            draw.text(place, _fit(row.note, note_font, cell[0]), FAINT, font=note_font)
        for position, pixels in enumerate(row.images):
            sheet.paste(Image.fromarray(pixels), (x + position * (side_x + GAP), y + head))
    return sheet


def nothing(size: int, text: str = "no surface") -> Pixels:
    """A tile that says why there is no picture: uint8 [size, size, 3]."""
    tile = Image.new("RGB", (size, size), PAPER)
    font = _font(max(12, size // 14))
    place = ((size - font.getlength(text)) / 2, size / 2 - font.size / 2)
    ImageDraw.Draw(tile).text(place, text, FAINT, font=font)
    return np.asarray(tile)


def thumbnail(image: Pixels, size: int) -> Pixels:
    """An image [H, W, 3 or 4], fitted into a square of white: uint8 [size, size, 3]."""
    whole = Image.fromarray(image).convert("RGBA")
    picture = ImageOps.contain(whole, (size, size), Image.Resampling.LANCZOS)
    tile = Image.new("RGBA", (size, size), (255, 255, 255, 255))
    place = ((size - picture.width) // 2, (size - picture.height) // 2)
    tile.alpha_composite(picture, place)
    return np.asarray(tile.convert("RGB"))


def _empty(title: str) -> Image.Image:
    sheet = Image.new("RGB", (480, 120), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, 48), title or "nothing to show", FAINT, font=_font(18))
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which draws the labels")
    return font


def _printable(text: str) -> str:
    text = text.replace("²", "^2").replace("³", "^3")  # Pillow's font has no raised digits
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, shortened with an ellipsis to at most `width` pixels."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"

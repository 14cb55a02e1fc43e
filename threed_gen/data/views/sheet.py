"""OUT/views.png: some views of the first samples, so that people look at what was drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed_gen.data.views.view_set import ViewSet
from threed_gen.files import write_atomically

SHEET_NAME = "views.png"
ROWS, COLUMNS = 8, 8
THUMBNAIL = 128  # pixels
GAP = 4


def write_sheet(out: Path) -> Path:
    """Write the contact sheet: a row for each of the first samples, its views evenly spread."""
    views = ViewSet(out)
    samples = views.samples[:ROWS]
    columns = min(COLUMNS, max(views.count(sample) for sample in samples))
    step = THUMBNAIL + GAP
    page = np.full((len(samples) * step + GAP, columns * step + GAP, 3), 255, np.uint8)
    for row, sample in enumerate(samples):
        count = views.count(sample)
        for column in range(min(columns, count)):
            small = thumbnail(views.load(sample, column * count // columns).rgba)
            top, left = GAP + row * step, GAP + column * step
            page[top : top + THUMBNAIL, left : left + THUMBNAIL] = small
    content = io.BytesIO()
    Image.fromarray(page).save(content, "PNG")
    write_atomically(out / SHEET_NAME, content.getvalue(), "the sheet of views")
    return out / SHEET_NAME


def thumbnail(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture on light grey, where white and black shapes are seen alike, [T, T, 3]."""
    alpha = rgba[..., 3:] / 255.0
    flat = np.rint(rgba[..., :3] * alpha + 232.0 * (1 - alpha)).astype(np.uint8)
    size = (THUMBNAIL, THUMBNAIL)
    return np.asarray(Image.fromarray(flat).resize(size, Image.Resampling.BOX))

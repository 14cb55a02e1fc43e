"""Pictures that the run left behind: its data, and its previews over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from threed_gen.report.meshes import data_url
from threed_gen.report.run_data import RunData

T = TypeVar("T")
MOST_PREVIEWS = 24

MOST_PIXELS = 1600  # width of an embedded picture


def progress_section(run: RunData) -> str:
    """Contact sheets over the steps, under a slider."""
    chosen = spread(run.previews, MOST_PREVIEWS)
    pictures = []
    for step, path in chosen:
        url = embedded(path)
        if url:
            label = f"step {step:,}"
            pictures.append(
                f'<img class="sheet" src="{url}" data-label="{label}" hidden '
                f'alt="truth beside reconstruction after {label}">'
            )
    if not pictures:
        return ""
    pictures[-1] = pictures[-1].replace(" hidden ", " ", 1)
    some = (
        f'<p class="fine">{len(pictures)} of {len(run.previews)} previews are in this page; all '
        "lie in the run's <code>previews</code> folder.</p>"
        if len(pictures) < len(run.previews)
        else ""
    )
    last = len(pictures) - 1
    slider = (
        f'<label>earlier <input type="range" min="0" max="{last}" value="{last}" step="1" '
        'aria-label="training step"> later <output></output></label>'
    )
    return f'<div class="card scrub">{slider}{"".join(pictures)}</div>{some}'


def data_section(run: RunData) -> str:
    """The data as the model sees it."""
    url = embedded(run.data_sheet) if run.data_sheet else ""
    if not url:
        return ""
    return (
        '<p class="intro">Extracted from the stored fields, as the model is fed with them.</p>'
        f'<div class="card data"><img class="sheet" src="{url}" alt="training shapes"></div>'
    )


def embedded(path: Path) -> str:
    """A picture file as a data URL, at most MOST_PIXELS wide; empty when it cannot be read."""
    try:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return ""  # half-written by a running process; the next report has it
    if rgb.width > MOST_PIXELS:
        height = round(rgb.height * MOST_PIXELS / rgb.width)
        rgb = rgb.resize((MOST_PIXELS, height), Image.Resampling.LANCZOS)
    return data_url(rgb, "WEBP", quality=88, method=4)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, first and last among them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]

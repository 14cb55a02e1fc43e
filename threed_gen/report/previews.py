"""Pictures that a run leaves behind while it trains: its data, and its progress.

`previews/data.png` is drawn before step 1 from what the model will be fed (the meshes that
marching cubes gives back from the stored fields), so a wrong unit, a flipped sign or a lost part
is seen before any time is spent. `previews/step_XXXXXXXX.png` shows, for each shape of the fixed
validation set, the truth beside what the model makes of it (and the image that it was given).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.Image import Image as Picture

from threed_gen.files import atomic_file
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay import CLAY, SLATE, Color, Frame, Image, frame_of, render
from threed_gen.report.pictures import Row, contact_sheet, nothing, thumbnail
from threed_gen.report.step_meshes import write_step_meshes

MOST_SHAPES = 24  # on one sheet; more would be too small to see


Content = Mesh | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PreviewShape:
    """One shape: (heading, surface or image, whether it is the truth) side by side."""

    name: str
    panels: Sequence[tuple[str, Content, bool]]  # surfaces in one frame; images [H, W, 3 or 4]
    note: str = ""  # e.g. "IoU 0.97"


def write_preview(
    run_dir: Path, step: int, shapes: Sequence[PreviewShape], size: int = 192
) -> Path:
    """The panels of each shape after `step`; returns the picture's path.

    What was made of images is kept as small meshes too (step_meshes.py), for the page.
    """
    rows = []
    for shape in shapes[:MOST_SHAPES]:
        surfaces = [content for _, content, truth in shape.panels if isinstance(content, Mesh)]
        frame = frame_of(surfaces[0]) if surfaces else None
        pictures = [_panel(content, truth, frame, size) for _, content, truth in shape.panels]
        rows.append(Row(shape.name, pictures, shape.note))
    headings = [heading for heading, _, _ in shapes[0].panels] if shapes else []
    title = f"step {step:,}" + _left_out(len(shapes))
    across = _across(len(rows), max(len(headings), 1))
    sheet = contact_sheet(rows, headings, title, across)
    if any(_made_of_an_image(shape) for shape in shapes):
        write_step_meshes(run_dir, step, shapes)
    return _save(sheet, run_dir / "previews" / f"step_{step:08d}.png")


def _made_of_an_image(shape: PreviewShape) -> bool:
    surfaces = [truth for _, content, truth in shape.panels if isinstance(content, Mesh)]
    return len(surfaces) < len(shape.panels) and not all(surfaces)


def _panel(content: Content, truth: bool, frame: Frame | None, size: int) -> Image:
    if isinstance(content, Mesh):
        return _picture(content, frame or frame_of(content), CLAY if truth else SLATE, size)
    return thumbnail(content, size)


def write_data_sheet(
    run_dir: Path, meshes: Sequence[tuple[str, Mesh]], note: str = "", size: int = 160
) -> Path:
    """The data as the model sees it, from two sides; returns the picture's path."""
    rows = []
    for name, mesh in meshes[:MOST_SHAPES]:
        frame = frame_of(mesh)
        views = [_picture(mesh, frame, CLAY, size, azimuth) for azimuth in (35.0, 215.0)]
        rows.append(Row(name, views))
    title = "the data as the model sees it" + (f" · {note}" if note else "")
    sheet = contact_sheet(rows, (), title + _left_out(len(meshes)), _across(len(rows), 2))
    return _save(sheet, run_dir / "previews" / "data.png")


def _picture(mesh: Mesh, frame: Frame, color: Color, size: int, azimuth: float = 35.0) -> Image:
    if len(mesh.faces) == 0:
        return nothing(size)
    return render(mesh, azimuth, size=size, frame=frame, color=color)


def _left_out(count: int) -> str:
    return f" · {MOST_SHAPES} of {count} shapes" if count > MOST_SHAPES else ""


def _across(rows: int, pictures: int) -> int:
    """How many rows stand side by side so that the sheet is about 3:2."""
    return max(1, min(rows, round((1.5 * rows / pictures) ** 0.5)))


def _save(sheet: Picture, path: Path) -> Path:
    with atomic_file(path, "a preview") as file:
        sheet.save(file, format="PNG", optimize=True)
    return path

"""Pictures that a run leaves behind while it trains: its data, and its progress.

`previews/data.png` is drawn before step 1 from what the model will be fed (the meshes that
marching cubes gives back from the stored fields), so a wrong unit, a flipped sign or a lost part
is seen before any time is spent. `previews/step_XXXXXXXX.png` shows truth beside reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image as Picture

from threed_gen.files import atomic_file
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render import CLAY, SLATE, Color, Frame, Image, frame_of, render
from threed_gen.report.pictures import Row, contact_sheet, nothing

MOST_SHAPES = 24  # on one sheet; more would be too small to see


@dataclass(frozen=True)
class PreviewShape:
    """Truth and reconstruction of one shape, in the same frame."""

    name: str
    truth: Mesh
    reconstruction: Mesh
    note: str = ""  # e.g. "IoU 0.97"


def write_preview(
    run_dir: Path, step: int, shapes: Sequence[PreviewShape], size: int = 192
) -> Path:
    """Truth | reconstruction of each shape after `step`; returns the picture's path."""
    rows = []
    for shape in shapes[:MOST_SHAPES]:
        frame = frame_of(shape.truth)
        truth = _picture(shape.truth, frame, CLAY, size)
        again = _picture(shape.reconstruction, frame, SLATE, size)
        rows.append(Row(shape.name, [truth, again], shape.note))
    title = f"step {step:,}" + _left_out(len(shapes))
    sheet = contact_sheet(rows, ["truth", "reconstruction"], title, _across(len(rows), 2))
    return _save(sheet, run_dir / "previews" / f"step_{step:08d}.png")


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

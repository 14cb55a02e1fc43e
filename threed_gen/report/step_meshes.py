"""What a model made of the validation images at one training step, kept small for the page.

`previews/step_XXXXXXXX.npz` stands beside the contact sheet of that step. It holds the first
`MOST_SHAPES` shapes with every panel: images as WEBP, surfaces with at most `MOST_FACES` faces and
16-bit positions, about 40 kB each. It is read without pickle, and every size in it is checked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.mesh import Mesh
from threed_gen.report.meshes import coarser
from threed_gen.report.pictures import thumbnail

if TYPE_CHECKING:
    from threed_gen.report.previews import PreviewShape

FORMAT = 1
MOST_SHAPES = 8
MOST_FACES = 8000
MOST_BYTES = 32 << 20  # of a file that is read
IMAGE_SIZE = 256
STEPS = 65535  # of a position, over the box of its mesh


@dataclass(frozen=True)
class StoredPanel:
    """One panel: an image [H, W, 3] or a surface, which may be empty."""

    title: str
    content: Mesh | npt.NDArray[np.uint8]
    is_truth: bool


@dataclass(frozen=True)
class StoredShape:
    """One shape of one step."""

    name: str
    note: str
    panels: list[StoredPanel]


def write_step_meshes(run_dir: Path, step: int, shapes: Sequence[PreviewShape]) -> Path:
    """Keep the panels of `shapes` for the page; returns the file's path."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    rows: list[dict[str, Any]] = []
    count = 0
    for shape in shapes[:MOST_SHAPES]:
        panels: list[dict[str, Any]] = []
        for title, content, is_truth in shape.panels:
            kind, parts = _stored(content)
            place, count = str(count), count + 1
            arrays |= {f"{place}_{key}": value for key, value in parts.items()}
            panels.append({"title": title, "truth": is_truth, "kind": kind, "place": place})
        rows.append({"name": shape.name, "note": shape.note, "panels": panels})
    text = json.dumps({"format": FORMAT, "step": step, "shapes": rows}).encode()
    arrays["meta"] = np.frombuffer(text, np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub: any keyword
    path = run_dir / "previews" / f"step_{step:08d}.npz"
    write_atomically(path, buffer.getvalue(), "the preview's meshes")
    return path


def read_step_meshes(path: Path) -> list[StoredShape]:
    """The content of such a file; UserError when it is not one, or damaged."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 8 * MOST_BYTES:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            if meta["format"] != FORMAT:
                raise ValueError(f"its format is {meta['format']}, not {FORMAT}")
            return [
                StoredShape(
                    str(shape["name"]),
                    str(shape["note"]),
                    [_panel(panel, arrays) for panel in shape["panels"][:4]],
                )
                for shape in meta["shapes"][:MOST_SHAPES]
            ]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as err:
        raise UserError(f"{path.name}: cannot be read ({type(err).__name__}: {err})") from err


def _stored(content: Mesh | npt.NDArray[np.uint8]) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    if isinstance(content, Mesh):
        small = coarser(content, MOST_FACES)
        low, high = small.bounds
        side = float((high - low).max()) or 1.0
        used, faces = np.unique(small.faces, return_inverse=True)
        steps = np.rint((small.vertices[used] - low) / side * STEPS).astype(np.uint16)
        box = np.array([*low, side])
        return "mesh", {"v": steps, "f": faces.reshape(-1, 3).astype(np.uint16), "b": box}
    buffer = io.BytesIO()
    Image.fromarray(thumbnail(content, IMAGE_SIZE)).save(buffer, "WEBP", quality=85)
    return "image", {"i": np.frombuffer(buffer.getvalue(), np.uint8)}


def _panel(panel: dict[str, Any], arrays: Any) -> StoredPanel:
    title, truth, place = str(panel["title"]), bool(panel["truth"]), panel["place"]
    if panel["kind"] == "image":
        with Image.open(io.BytesIO(arrays[f"{place}_i"].tobytes()), formats=["WEBP"]) as picture:
            if max(picture.size) > IMAGE_SIZE:
                raise ValueError("an image is too large")
            return StoredPanel(title, np.asarray(picture.convert("RGB")), truth)
    steps, faces, box = (arrays[f"{place}_{key}"] for key in "vfb")
    right = (np.uint16, np.uint16, np.float64)
    if tuple(a.dtype.type for a in (steps, faces, box)) != right or box.shape != (4,):
        raise ValueError("a mesh is not stored as it should be")
    if len(faces) > MOST_FACES or (faces.size and int(faces.max()) >= len(steps)):
        raise ValueError("a mesh has faces that it cannot have")
    if not np.isfinite(box).all():
        raise ValueError("a mesh has no place")
    vertices = steps.astype(np.float64).reshape(-1, 3) / STEPS * box[3] + box[:3]
    return StoredPanel(title, Mesh(vertices, faces.astype(np.int64).reshape(-1, 3)), truth)

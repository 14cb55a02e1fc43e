"""Contact sheets and the previews of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from threed_gen.geometry.mesh import Mesh
from threed_gen.report.pictures import GAP, MARGIN, Row, contact_sheet, nothing
from threed_gen.report.previews import MOST_SHAPES, PreviewShape, write_data_sheet, write_preview

CUBE = trimesh.creation.box((1, 1, 1))
MESH = Mesh(np.asarray(CUBE.vertices), np.asarray(CUBE.faces))
EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def test_pictures_stand_in_their_cells() -> None:
    red = np.zeros((40, 40, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    blue = red[..., ::-1]
    sheet = np.asarray(contact_sheet([Row("a", [red, blue]), Row("b", [blue, red])], across=2))
    rows, columns = np.nonzero((sheet == [255, 0, 0]).all(axis=2))
    assert len(rows) == 2 * 40 * 40
    assert columns.min() == MARGIN
    assert columns.max() == sheet.shape[1] - MARGIN - 1
    rows, columns = np.nonzero((sheet == [0, 0, 255]).all(axis=2))
    assert columns.min() == MARGIN + 40 + GAP


def test_labels_are_drawn_and_cut_to_their_column() -> None:
    tile = np.full((40, 40, 3), 255, np.uint8)
    long = np.asarray(contact_sheet([Row("w" * 500 + "\n\x00 é 漢 32³", [tile])], title="t"))
    assert long.shape[1] == 2 * MARGIN + 40
    assert (long[:, : MARGIN // 2] == long[0, 0]).all()
    assert (long[:, -MARGIN // 2 :] == long[0, 0]).all()
    assert (long.max(axis=2) < 120).any()


def test_no_rows() -> None:
    assert contact_sheet([], title="empty").size[0] > 0
    assert nothing(32).shape == (32, 32, 3)


def test_preview_files(tmp_path: Path) -> None:
    image = np.full((20, 10, 4), 255, np.uint8)
    panels = [("image", image, True), ("truth", MESH, True), ("sample", EMPTY, False)]
    shapes = [PreviewShape(f"s{k}", panels) for k in range(3)]
    path = write_preview(tmp_path, 70, shapes, size=32)
    assert path == tmp_path / "previews" / "step_00000070.png"
    with Image.open(path) as picture:
        picture.load()
    many = [(f"m{k}", EMPTY) for k in range(MOST_SHAPES + 5)]
    path = write_data_sheet(tmp_path, many, "note", size=32)
    assert path == tmp_path / "previews" / "data.png"
    names = ["data.png", "step_00000070.npz", "step_00000070.png"]
    assert sorted(p.name for p in path.parent.iterdir()) == names

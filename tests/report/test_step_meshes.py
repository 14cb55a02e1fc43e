"""What a validation leaves for the page: small, as it was, and harmless when it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.report.conftest import EVIL
from tests.report.pages import Page, check_offline
from threed_gen.errors import UserError
from threed_gen.evaluation.metrics import mesh_metrics
from threed_gen.geometry.mesh import Mesh
from threed_gen.report.page import write_report
from threed_gen.report.previews import PreviewShape, write_preview
from threed_gen.report.step_meshes import (
    MOST_FACES,
    MOST_SHAPES,
    read_step_meshes,
    write_step_meshes,
)

EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))


def ball(scale: float = 1.0, subdivisions: int = 2) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions=subdivisions)
    return Mesh(np.asarray(shape.vertices) * scale + 5, np.asarray(shape.faces))


def shapes(sample: Mesh, names: tuple[str, ...] = (EVIL,)) -> list[PreviewShape]:
    image = np.zeros((40, 20, 4), np.uint8)
    image[..., 0] = image[..., 3] = 255
    panels = [("image", image, True), ("truth", ball(), True), ("sample", sample, False)]
    return [PreviewShape(name, panels, "IoU 0.5") for name in names]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write_step_meshes(tmp_path, 30, shapes(ball(1.1), (EVIL, "plain")))
    assert path == tmp_path / "previews" / "step_00000030.npz"
    first, second = read_step_meshes(path)
    assert (first.name, second.name, first.note) == (EVIL, "plain", "IoU 0.5")
    assert [(p.title, p.is_truth) for p in first.panels] == [
        ("image", True), ("truth", True), ("sample", False),
    ]  # fmt: skip
    image, truth, sample = (panel.content for panel in first.panels)
    assert image.shape == (256, 256, 3)
    assert image[128, 128, 0] > 240 > 20 > image[128, 128, 2]
    # 16 bits over the box: at most half a step on each axis.
    assert mesh_metrics(truth, ball(), 2000)["cd_l1"] < 2 / 65535
    assert mesh_metrics(sample, ball(1.1), 2000)["nc"] > 0.999


def test_it_stays_small(tmp_path: Path) -> None:
    many = shapes(ball(1.0, subdivisions=5), tuple(f"s{k}" for k in range(MOST_SHAPES + 3)))
    path = write_step_meshes(tmp_path, 1, many)
    stored = read_step_meshes(path)
    assert len(stored) == MOST_SHAPES
    assert 1000 < len(stored[0].panels[2].content.faces) <= MOST_FACES
    assert path.stat().st_size < MOST_SHAPES * 100_000


def test_nothing_is_kept_of_reconstructions(tmp_path: Path) -> None:
    panels = [("truth", ball(), True), ("reconstruction", ball(), False)]
    write_preview(tmp_path, 1, [PreviewShape("a", panels)], size=32)
    assert [p.name for p in (tmp_path / "previews").iterdir()] == ["step_00000001.png"]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def run_with_samples(root: Path) -> Path:
    """A run of an SS-DiT with two validations; the first sample is empty."""
    root.mkdir()
    (root / "config.yaml").write_text("task: ss_dit\n")
    write_preview(root, 10, shapes(EMPTY), size=32)
    write_preview(root, 20, shapes(ball(1.2)), size=32)
    return root


def test_page_has_image_truth_and_sample_under_a_slider(tmp_path: Path) -> None:
    text = write_report(run_with_samples(tmp_path / "run")).read_text("utf-8")
    check_offline(text)
    page = Page(text)
    roles = [a["data-role"] for a in page.with_class("view")]
    assert roles == ["image", "truth", "panel2"]
    sliders = [a for tag, a in page.tags if tag == "input" and "data-labels" in a]
    assert [(a["data-labels"], a["max"]) for a in sliders] == [("step 10|step 20", "1")]
    assert EVIL in page.text
    assert EVIL not in text


@pytest.mark.parametrize("damage", ["cut", "foreign", "pickle", "faces"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = write_step_meshes(tmp_path, 10, shapes(ball()))
    assert len(read_step_meshes(path)) == 1
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "foreign":
        path.write_bytes(b"not an archive")
    elif damage == "pickle":
        np.savez(path, meta=np.array([Trap(tmp_path / "sprung")], dtype=object))
    else:
        with np.load(path) as arrays:
            content = dict(arrays)
        content["1_f"] = content["1_f"] + np.uint16(60000)
        np.savez(path, **content)
    with pytest.raises(UserError, match=r"step_00000010.npz: cannot be read"):
        read_step_meshes(path)
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_file_does_not_stop_the_page(tmp_path: Path) -> None:
    run = run_with_samples(tmp_path / "run")
    (run / "previews" / "step_00000020.npz").write_bytes(b"torn")
    page = Page(write_report(run).read_text("utf-8"))
    assert "step_00000020.npz: cannot be read" in page.text
    assert len(page.with_class("view")) == 3

"""Mesh files in a real browser: loaded, drawn the right way out, with textures, turned, linked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.report.browser import PROGRAM, Browser
from tests.report.test_browser import place
from tests.report.test_serve import running
from threed_gen.commands.view import serving
from threed_gen.generation.mesh_file import write_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import save_mesh

pytestmark = [
    pytest.mark.long,  # a browser that draws on the CPU takes its time
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
]

CONE = trimesh.creation.cone(radius=0.7, height=1.6, sections=32)


def by_trimesh(mesh: Mesh, path: Path) -> None:
    """A GLB with vertex normals."""
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    body.export(path, include_normals=True)


# Every writer of GLB files in the project: each has to pass what follows.
WRITERS: dict[str, Callable[[Mesh, Path], None]] = {
    "save_mesh": save_mesh,
    "write_mesh": write_mesh,
}


def painted(path: Path) -> None:
    """A box whose texture is red."""
    box = trimesh.creation.box((1, 1, 1))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (8, 8), (255, 0, 0)), metallicFactor=0.0
    )
    uv = np.random.default_rng(0).random((len(box.vertices), 2))
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    box.export(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("meshes")
    upright = trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0))  # z up → y up
    cone = CONE.copy().apply_transform(upright)
    mesh = Mesh(np.asarray(cone.vertices) * 30 + 100, np.asarray(cone.faces))
    for k, (name, write) in enumerate(WRITERS.items()):
        write(mesh, root / f"a{k}_{name}.glb")
    by_trimesh(Mesh(mesh.vertices, mesh.faces[:, ::-1]), root / "b_inside_out.glb")
    painted(root / "c_painted.glb")
    save_mesh(mesh, root / "d.ply")
    (root / "e.glb").write_bytes(b"not a file of that kind")
    return root


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with (
        running(serving([folder], 0)) as server,
        Browser(tmp_path_factory.mktemp("profile"), size=(1100, 1000)) as found,
    ):
        found.call("Page.navigate", url=server.url)
        found.wait_for("document.readyState === 'complete'")
        found.wait_for("document.querySelectorAll('.stage.live').length === 5")
        found.wait_for("document.querySelector('[data-src$=\"5.glb\"] .nothing').textContent"
                       " !== 'loading …'")  # fmt: skip
        yield found


def pixels(browser: Browser, number: int) -> np.ndarray:
    """What the canvas of a card shows, RGBA [64, 64, 4]."""
    flat = browser.evaluate(f"""new Promise((done) => requestAnimationFrame(() =>
      requestAnimationFrame(() => {{ const small = document.createElement("canvas");
        small.width = small.height = 64; const pen = small.getContext("2d");
        pen.drawImage(document.querySelectorAll(".stage")[{number}].querySelector("canvas"),
          0, 0, 64, 64);
        done([...pen.getImageData(0, 0, 64, 64).data]); }})))""")
    return np.array(flat).reshape(64, 64, 4)


def press(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).click()")


@pytest.mark.parametrize("number", range(len(WRITERS)))
def test_a_glb_is_drawn_upright_and_the_right_way_out(browser: Browser, number: int) -> None:
    body = pixels(browser, number)[..., 3] > 200
    assert 300 < body.sum() < 2500
    widths = body.sum(axis=1)
    rows = np.flatnonzero(widths)
    assert widths[rows[2]] < widths[rows[-6]] / 3  # the tip is on top
    # Face on, with normals as colours: blue is what looks at the camera.
    press(browser, "[data-look=normals]")
    normals = pixels(browser, number)
    press(browser, "[data-look=file]")
    inside = normals[..., 3] > 250
    assert (normals[inside][:, 2] > 120).mean() > 0.98


def test_a_surface_inside_out_is_seen_to_be(browser: Browser) -> None:
    """Only its far side is drawn: in the middle the colours differ from the right one's."""
    right, wrong = pixels(browser, 0), pixels(browser, len(WRITERS))
    both = (right[..., 3] > 250) & (wrong[..., 3] > 250)
    assert np.abs(right[both][:, :3] - wrong[both][:, :3]).mean() > 25


def test_textures_are_seen(browser: Browser) -> None:
    shown = pixels(browser, len(WRITERS) + 1)
    body = shown[shown[..., 3] > 250][:, :3]
    assert len(body) > 300
    assert (body[:, 0] > 2 * body[:, 1]).mean() > 0.95


def test_other_formats_stand_beside_and_what_cannot_be_read_says_so(browser: Browser) -> None:
    glb, ply = (pixels(browser, k)[..., 3] > 250 for k in (0, len(WRITERS) + 2))
    assert (glb & ply).sum() / (glb | ply).sum() > 0.9
    text = browser.evaluate("document.querySelector('[data-src$=\"5.glb\"] .nothing').textContent")
    assert text != "loading …"
    assert browser.evaluate("document.querySelectorAll('.files .card').length") == 6
    assert all(url.startswith(("http://127.0.0.1:", "blob:", "data:")) for url in browser.requests)
    assert browser.complaints == []


def test_cards_turn_alone_and_together(browser: Browser, tmp_path: Path) -> None:
    def drag(down: int) -> None:
        left, top, width, height = place(browser, ".stage")
        x, y = left + width / 2, top + height / 2
        browser.mouse("mousePressed", x, y, button="left", clickCount=1)
        for k in range(1, 4):
            browser.mouse("mouseMoved", x + 10 * k, y + down * k, button="left", buttons=1)
        browser.mouse("mouseReleased", x + 30, y + 3 * down, button="left")

    def apart() -> float:
        """Share of the picture in which two cards with the same cone differ in outline."""
        one, other = (pixels(browser, k)[..., 3] > 128 for k in (0, 1))
        return float((one != other).mean())

    before = pixels(browser, 0)
    assert apart() < 0.003
    drag(15)
    assert apart() > 0.02
    press(browser, "[data-link]")
    assert apart() < 0.003
    linked = pixels(browser, 0)
    drag(-15)
    assert apart() < 0.003
    assert (pixels(browser, 0) != linked).any()
    browser.screenshot(tmp_path / "view.png")
    press(browser, "[data-link]")
    press(browser, "[data-home]")
    assert (pixels(browser, 0) == before).all()

"""Image, truth and sample of each validation image, to be turned, under a slider over the steps."""

from __future__ import annotations

from html import escape
from typing import Any

from PIL import Image

from threed_gen.console import Progress
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.render.clay import CLAY, SLATE, Frame, Scene, frame_of
from threed_gen.report.gallery import spread
from threed_gen.report.meshes import data_url, floor_shadow, pack, poster, vertex_shade
from threed_gen.report.run_data import RunData
from threed_gen.report.shapes import toolbar
from threed_gen.report.step_meshes import StoredPanel, StoredShape, read_step_meshes
from threed_gen.report.text import json_script, plain

MOST_STEPS = 12  # in the page; with 8 shapes about 6 MB
STILL_SIZE = 160  # pixels of the pictures for browsers without WebGL
LOOKS = (("clay", "Clay"), ("edges", "Edges"), ("normals", "Normals"))
ACROSS = {1: " one", 2: "", 3: " three", 4: " four"}


def steps_section(run: RunData) -> str:
    """The cards, or nothing when the run kept no meshes of its validations."""
    chosen = spread(run.step_meshes, MOST_STEPS)
    found: list[tuple[int, dict[str, StoredShape]]] = []
    for step, path in chosen:
        try:
            found.append((step, {shape.name: shape for shape in read_step_meshes(path)}))
        except UserError as err:
            run.notes.append(plain(err))
    if not found:
        return ""
    newest = found[-1][1]
    cards = []
    with Progress(len(newest), "report", "validation image") as bar:
        for name, shape in newest.items():
            cards.append(card(shape, [shapes.get(name) for _, shapes in found]))
            bar.advance()
    some = (
        f" {len(found)} of {len(run.step_meshes)} validations are in this page; all lie in the "
        "run's <code>previews</code> folder."
        if len(found) < len(run.step_meshes)
        else ""
    )
    last = len(found) - 1
    labels = "|".join(f"step {step:,}" for step, _ in found)
    slider = (
        f'<div class="card scrub steps"><label>earlier <input type="range" min="0" max="{last}" '
        f'value="{last}" step="1" data-labels="{labels}" aria-label="training step"> later '
        "<output></output></label></div>"
    )
    return (
        '<p class="intro">What the model made of each validation image, beside the truth. Drag to '
        "turn, Ctrl + wheel or pinch to come closer, double-click to go back; the slider goes "
        f"through the training.{some}</p>"
        '<p class="alert no-webgl" hidden>This browser offers no WebGL; still pictures of the '
        f"last step are shown instead.</p>{toolbar(LOOKS, link=True)}"
        f'<div data-at="{last}">{slider}<div class="pairs broad">{"".join(cards)}</div></div>'
    )


def card(shape: StoredShape, over_time: list[StoredShape | None]) -> str:
    """One card: every panel of the newest step; surfaces that are not the truth have all steps."""
    surfaces = [panel.content for panel in shape.panels if isinstance(panel.content, Mesh)]
    frame = next((frame_of(mesh) for mesh in surfaces if len(mesh.faces)), Frame((0, 0, 0), 1.0))
    data: dict[str, Any] = {}
    figures = []
    for number, panel in enumerate(shape.panels):
        role, inner = f"panel{number}", '<div class="nothing">no surface</div>'
        if not isinstance(panel.content, Mesh):
            role = "image"
            picture = data_url(_image(panel), "WEBP", quality=88)
            inner = f'<img src="{picture}" alt="{escape(plain(panel.title))}">'
        else:
            color = CLAY if panel.is_truth else SLATE
            if len(panel.content.faces):
                still = poster(Scene(panel.content, frame), color, STILL_SIZE)
                inner = f'<img src="{still}" alt="{escape(plain(panel.title))}">'
            if panel.is_truth:
                role = "truth"
                if len(panel.content.faces):
                    data[role] = _packed(panel.content, frame)
            else:
                earlier = [_same(one, panel.title) for one in over_time]
                data[role] = [_packed(mesh, frame) if mesh else None for mesh in earlier]
        figures.append(
            f'<figure class="view" data-role="{role}">{inner}'
            f"<figcaption>{escape(plain(panel.title))}</figcaption></figure>"
        )
    return (
        f'<article class="card"><div class="stage{ACROSS.get(len(figures), " four")}">'
        f"{''.join(figures)}{json_script(data) if data else ''}</div>"
        f'<div class="about"><h3>{escape(plain(shape.name))}</h3>'
        f"<span>{escape(plain(shape.note))}</span></div></article>"
    )


def _same(shape: StoredShape | None, title: str) -> Mesh | None:
    """The surface of another step's panel of that title; None when there is none."""
    for panel in shape.panels if shape else ():
        if panel.title == title and isinstance(panel.content, Mesh) and len(panel.content.faces):
            return panel.content
    return None


def _packed(mesh: Mesh, frame: Frame) -> dict[str, Any]:
    scene = Scene(mesh, frame)
    packed = pack(mesh, frame, vertex_shade(scene, mesh)).as_json()
    return {**packed, "floor": floor_shadow(scene)}


def _image(panel: StoredPanel) -> Image.Image:
    assert not isinstance(panel.content, Mesh)
    return Image.fromarray(panel.content)

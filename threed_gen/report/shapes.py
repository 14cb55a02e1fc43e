"""The centre of the page: every validation shape as truth beside reconstruction, to be turned."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from threed_gen.console import Progress
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.mesh import Mesh, MeshError
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.render.clay import CLAY, SLATE, frame_of
from threed_gen.report.meshes import ERROR_SPAN, coarser, viewable
from threed_gen.report.run_data import Record, RunData
from threed_gen.report.text import json_script, number

FIRST_SHAPES = 16  # of a long evaluation, the first so many …
WORST_SHAPES = 8  # … and these are shown in 3D
FILLED = 0.95  # share of the unit cube that the longest side of a shape takes
LOOKS = (("clay", "Clay"), ("edges", "Edges"), ("normals", "Normals"), ("error", "Error"))
ROLES = (("truth", "ground truth", CLAY), ("reconstruction", "reconstruction", SLATE))
FACTS = (
    ("iou", "IoU", 3), ("f@0.02", "F@0.02", 3), ("error_voxels", "error", 3),
    ("cd_l1", "CD-L1", 4), ("nc", "normals", 3), ("holes", "open edges", 0),
)  # fmt: skip


def shapes_section(run: RunData) -> str:
    """Pairs of orbitable meshes, or a line that says how to get them (an SS-VAE's alone)."""
    shapes = [shape for shape in run.evaluation.get("shapes") or [] if isinstance(shape, dict)]
    if not shapes and run.config.get("task", "ss_vae") != "ss_vae":
        return ""  # what it makes stands under "Samples" and "Progress"
    if not shapes:
        command = escape(f"threed-gen evaluate {run.root}")
        return (
            f'<div class="empty">Not evaluated yet. <code>{command}</code> fills this part.</div>'
        )
    chosen = _choose(shapes)
    cards = []
    with Progress(len(chosen), "report", "shape") as bar:
        for shape in chosen:
            cards.append(_pair(run, shape))
            bar.advance(note=str(shape.get("name", "")))
    some = (
        f" {len(chosen)} of {len(shapes)} shapes are shown: the first {FIRST_SHAPES}, and of the "
        f"others the {WORST_SHAPES} with the lowest IoU."
        if len(chosen) < len(shapes)
        else ""
    )
    return (
        '<p class="intro">Drag to turn both, Ctrl + wheel or pinch to come closer, double-click to '
        f"go back.{some}</p>"
        '<p class="alert no-webgl" hidden>This browser offers no WebGL; still pictures are shown '
        f"instead.</p>{toolbar(LOOKS)}"
        f'<div class="pairs">{"".join(cards)}</div>'
    )


def _choose(shapes: list[Record]) -> list[Record]:
    if len(shapes) <= FIRST_SHAPES + WORST_SHAPES:
        return shapes
    rest = sorted(
        shapes[FIRST_SHAPES:],
        key=lambda s: s["iou"] if isinstance(s.get("iou"), int | float) else -1.0,
    )
    return shapes[:FIRST_SHAPES] + rest[:WORST_SHAPES]


def toolbar(looks: Sequence[tuple[str, str]], link: bool = False) -> str:
    """Buttons that change how all meshes of the page are drawn; the viewer brings them to life.

    The first look is the one to begin with; `link` offers one camera for all cards.
    """
    buttons = "".join(
        f'<button type="button" data-look="{key}" aria-pressed="{str(number == 0).lower()}">'
        f"{title}</button>"
        for number, (key, title) in enumerate(looks)
    )
    together = (
        '<button type="button" class="plain" data-link aria-pressed="false">Turn all</button>'
        if link
        else ""
    )
    return (
        f'<div class="toolbar looks" hidden><span class="segments" role="group" '
        f'aria-label="material">'
        f"{buttons}</span>"
        '<button type="button" class="plain" data-spin aria-pressed="false">Spin</button>'
        f'{together}<button type="button" class="plain" data-home>Reset view</button>'
        f'<span class="scale">distance to the truth: 0 <i></i> {ERROR_SPAN:g} voxels</span></div>'
    )


def _pair(run: RunData, shape: Record) -> str:
    """One card: two views, the name, the numbers."""
    name = str(shape.get("name", "?"))
    meshes, asides = _load(run, shape)
    frame = frame_of(meshes["truth"]) if "truth" in meshes else None
    if frame is None and meshes:
        frame = frame_of(next(iter(meshes.values())))
    data: dict[str, Any] = {}
    figures = []
    for role, title, color in ROLES:
        inner = '<div class="nothing">no surface</div>'
        if role in meshes and frame is not None:
            mesh = coarser(meshes[role])
            if len(mesh.faces) < len(meshes[role].faces):
                asides.append(
                    f"{title} drawn with {len(mesh.faces):,} of {len(meshes[role].faces):,} faces"
                )
            error = None
            if role == "reconstruction" and "truth" in meshes:
                error = _error(mesh, meshes["truth"], run.evaluation.get("resolution"))
            data[role], still = viewable(mesh, frame, color, error)
            inner = f'<img src="{still}" alt="{title} of {escape(name)}">'
        figures.append(
            f'<figure class="view" data-role="{role}">{inner}<figcaption>{title}</figcaption>'
            "</figure>"
        )
    facts = [
        f"<span>{label} <b>{number(shape[key], digits)}</b>{' voxels' if label == 'error' else ''}"
        "</span>"
        for key, label, digits in FACTS
        if key in shape
    ]
    source = shape.get("source")
    if isinstance(source, dict) and "f@0.02" in source:
        facts.append(f"<span>F@0.02 to source <b>{number(source['f@0.02'], 3)}</b></span>")
    if shape.get("nonfinite_voxels"):
        asides.append(f"{shape['nonfinite_voxels']:,} voxels were not finite numbers")
    aside = f'<span class="aside">{escape("; ".join(asides))}</span>' if asides else ""
    script = json_script(data) if data else ""
    return (
        f'<article class="card"><div class="stage">{"".join(figures)}{script}</div>'
        f'<div class="about"><h3>{escape(name)}</h3>{"".join(facts)}{aside}</div></article>'
    )


def _load(run: RunData, shape: Record) -> tuple[dict[str, Mesh], list[str]]:
    """The meshes that can be read, and a remark on each that cannot."""
    meshes: dict[str, Mesh] = {}
    asides: list[str] = []
    paths = run.meshes(shape)
    for role, title, _ in ROLES:
        if role not in paths:
            empty = role == "reconstruction" and shape.get("faces") == 0
            asides.append(
                f"the {title} is empty" if empty else f"the mesh of the {title} is missing"
            )
            continue
        try:
            meshes[role] = load_mesh(paths[role])
        except MeshError:
            asides.append(f"the mesh of the {title} cannot be read")
    return meshes, asides


def _error(mesh: Mesh, truth: Mesh, resolution: object) -> np.ndarray | None:
    """Distance of every vertex of `mesh` to the surface of `truth`, in voxels: [V]."""
    if not isinstance(resolution, int) or resolution <= 0:
        return None
    low, high = truth.bounds
    voxel = float((high - low).max()) / FILLED / resolution
    distance, _ = TriangleDistance(truth.triangles).of_points(mesh.vertices, 2 * ERROR_SPAN * voxel)
    return np.minimum(distance / voxel, ERROR_SPAN)

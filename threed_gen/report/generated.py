"""The page of generated meshes: picture, truth, and what the models made of the picture alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed_gen.console import Progress
from threed_gen.data.dataset import SDFDataset
from threed_gen.files import write_atomically
from threed_gen.geometry.marching_cubes import extract_mesh
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.report.document import Document
from threed_gen.report.pictures import thumbnail
from threed_gen.report.shapes import toolbar
from threed_gen.report.step_meshes import IMAGE_SIZE, StoredPanel, StoredShape
from threed_gen.report.steps import LOOKS, card
from threed_gen.report.text import plain


def write_generated(
    path: Path, images: Path, generated: Path, data: Path, runs: Sequence[str]
) -> None:
    """Write the page.

    Args:
        images: folder of pictures, NAME.png each.
        generated: folder of what was made of them, NAME.glb in the models' unit cube.
        data: prepared shards with samples of those names: the truth.
        runs: folders beside `path` whose own pages are linked.
    """
    dataset = SDFDataset(data)
    numbers = {entry.id: i for i, entry in enumerate(dataset.index.samples)}
    pictures = sorted(images.glob("*.png"), key=lambda image: numbers[image.stem])
    cards = []
    with Progress(len(pictures), "page", "picture") as bar:
        for image in pictures:
            truth = unit_cube(dataset, numbers[image.stem])
            made = load_mesh(generated / f"{image.stem}.glb")
            shape = StoredShape(image.stem, f"{len(made.faces):,} faces", [
                StoredPanel("picture", picture(image), True),
                StoredPanel("truth", truth, True),
                StoredPanel("generated", made, False),
            ])  # fmt: skip
            cards.append(card(shape, [shape]))
            bar.advance(note=image.stem)
    links = ", ".join(
        f'<a href="{escape(run)}/report.html">{escape(plain(run))}</a>' for run in runs
    )
    body = (
        '<p class="intro">Each mesh was made from its picture alone, a view that training never '
        "saw. Drag to turn, Ctrl + wheel or pinch to come closer, double-click to go back.</p>"
        '<p class="alert no-webgl" hidden>This browser offers no WebGL; still pictures are shown '
        f'instead.</p>{toolbar(LOOKS, link=True)}<div class="pairs broad">{"".join(cards)}</div>'
    )
    page = Document(
        name=path.resolve().parent.name, kicker="from pictures to meshes", badge="",
        lead=f"The runs behind it: {links}.", tiles=(), alerts="", sections={"Generated": body},
    )  # fmt: skip
    write_atomically(path, page.html().encode("utf-8"), "the page")


def unit_cube(dataset: SDFDataset, number: int) -> Mesh:
    """A sample's surface where generated meshes are: its grid as the cube [-½, ½]³."""
    sdf = dataset.load(number, max(dataset.index.resolutions))
    return extract_mesh(replace(sdf, scale=1.0, offset=(-0.5, -0.5, -0.5)))


def picture(path: Path) -> NDArray[np.uint8]:
    """A picture on white, of the size of those in the runs' pages. [S, S, 3]."""
    with Image.open(path) as image:
        return thumbnail(np.asarray(image.convert("RGBA")), IMAGE_SIZE)

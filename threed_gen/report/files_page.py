"""The page of a folder of meshes: all of them side by side, to be turned, with their names."""

from __future__ import annotations

from html import escape

from threed_gen.report.document import Document
from threed_gen.report.mesh_files import Chosen, MeshFile
from threed_gen.report.serve import address
from threed_gen.report.shapes import toolbar
from threed_gen.report.text import plain

LOOKS = (("file", "As in the file"), ("clay", "Clay"), ("edges", "Edges"), ("normals", "Normals"))


def files_html(name: str, chosen: Chosen) -> str:
    """The page as text; the meshes come from the server that it came from."""
    notes = []
    if chosen.too_many:
        notes.append(f"{chosen.too_many:,} more files are not shown.")
    if chosen.led_out:
        notes.append(f"{chosen.led_out:,} links lead out of their folder and were left alone.")
    cards = "".join(_card(number, file) for number, file in enumerate(chosen.files))
    body = (
        '<p class="intro">Drag to turn, Ctrl + wheel or pinch to come closer, double-click to go '
        "back. Files are drawn as they say; only faces that look at you are filled, so a surface "
        f"that is inside out shows its far side. {' '.join(notes)}</p>"
        '<p class="alert no-webgl" hidden>This browser offers no WebGL, which this page needs.</p>'
        f'{toolbar(LOOKS, link=True)}<div class="files">{cards}</div>'
    )
    count = len(chosen.files)
    return Document(
        name=name,
        kicker=f"{count:,} mesh{'es' if count != 1 else ''}",
        badge="",
        lead="",
        tiles=(),
        alerts="",
        sections={"Meshes": body},
        fetches=True,
    ).html()


def _card(number: int, file: MeshFile) -> str:
    name = escape(plain(file.name))
    return (
        '<article class="card"><div class="stage one"><figure class="view" data-role="file" '
        f'data-src="{address(number, file)}"><div class="nothing">loading …</div>'
        f'<figcaption>{name}</figcaption></figure></div><div class="about"><h3>{name}</h3></div>'
        "</article>"
    )

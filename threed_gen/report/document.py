"""The frame that all pages share: one HTML file that needs nothing beside it, not even a network.

Style sheet, scripts and the 3D library are written into the file, and its own content security
policy forbids any request to anywhere. What goes in is HTML: whoever hands over text that comes
from files (their names above all) escapes it first.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from threed_gen import __version__

HERE = Path(__file__).resolve().parent
# Of the page's content security policy. GLB files carry their textures inside; a browser reads
# those by addresses that begin with `blob:` and lead nowhere.
ALONE = "img-src data:"
SERVED = "img-src data: blob:; connect-src 'self' blob:"
Tile = tuple[str, str, str]  # the number, what it is, an aside


@dataclass(frozen=True)
class Document:
    """What a page says; all fields but `name` and `kicker` are HTML."""

    name: str
    kicker: str
    badge: str
    lead: str
    tiles: Sequence[Tile]  # plain text
    alerts: str
    sections: Mapping[str, str]  # by heading; empty ones are left out
    fetches: bool = False  # whether it may ask the server that it came from, and only that one

    def html(self) -> str:
        """The page as text."""
        shown = {title: body for title, body in self.sections.items() if body}
        ids = {title: title.lower().replace(" ", "-") for title in shown}
        now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        return fill(
            (HERE / "template.html").read_text("utf-8"),
            {
                "sources": SERVED if self.fetches else ALONE,
                "title": escape(f"{self.name} · threed-gen"),
                "kicker": escape(f"threed-gen · {self.kicker}"),
                "name": escape(self.name),
                "badge": self.badge,
                "lead": self.lead,
                "tiles": "".join(map(_tile, self.tiles)),
                "alerts": self.alerts,
                "nav": "".join(f'<a href="#{ids[title]}">{title}</a>' for title in shown),
                "sections": "\n".join(
                    f'<section id="{ids[title]}"><h2>{title}</h2>{body}</section>'
                    for title, body in shown.items()
                ),
                "footer": escape(f"Written by threed-gen {__version__} on {now}. Works offline."),
                "licence": escape(
                    "\n\n".join(
                        f"{path.suffixes[0][1:]}\n\n{path.read_text('utf-8')}"
                        for path in sorted((HERE / "vendor").glob("LICENSE.*.txt"), reverse=True)
                    )
                ),
                "css": (HERE / "page.css").read_text("utf-8"),
                "three": script(HERE / "vendor" / "three.bundle.min.js"),
                "viewer_js": script(HERE / "viewer.js"),
                "page_js": script(HERE / "page.js"),
            },
        )


def alert(title: str, items: Sequence[str], kind: str = "") -> str:
    """A box under the tiles with a list of plain texts."""
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="alert {kind}"><b>{escape(title)}</b><ul>{rows}</ul></div>'


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Replace every `{{name}}` once; what was filled in is never looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def script(path: Path) -> str:
    """A script's text for a `<script>` element."""
    text = path.read_text("utf-8")
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError(f"{path.name} holds text that would end the <script> element it is put in")
    return text


def _tile(tile: Tile) -> str:
    value, title, aside = map(escape, tile)
    return f"<div class=tile><b>{value}</b><span>{title}</span><small>{aside}</small></div>"

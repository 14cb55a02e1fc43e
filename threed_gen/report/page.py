"""Puts a run's page together: one HTML file that needs nothing beside it, not even a network.

`write_report` reads the run directory (run_data.py), draws the charts (curves.py), packs meshes
(meshes.py) and fills template.html. Style sheet, scripts and the 3D library are written into the
page. Every text that comes from the run (names of files above all) is escaped, and the page's own
content security policy forbids any request to anywhere.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from threed_gen import __version__
from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.report.charts import charts_section
from threed_gen.report.gallery import data_section, progress_section
from threed_gen.report.header import alerts, badge, lead, tiles
from threed_gen.report.run_data import RunData, read_run
from threed_gen.report.shapes import shapes_section
from threed_gen.report.tables import config_section, metrics_section

HERE = Path(__file__).resolve().parent


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from whatever the run has left so far; returns its path.

    Raises:
        UserError: there is no such directory.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory")
    page = report_html(read_run(run_dir))
    path = run_dir / "report.html"
    write_atomically(path, page.encode("utf-8"), "the report")
    return path


def report_html(run: RunData) -> str:
    """The page as text."""
    sections = {
        "Shapes": shapes_section(run),
        "Metrics": metrics_section(run),
        "Curves": charts_section(run),
        "Progress": progress_section(run),
        "Data": data_section(run),
        "Configuration": config_section(run),
    }
    shown = {title: body for title, body in sections.items() if body}
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return fill(
        (HERE / "template.html").read_text("utf-8"),
        {
            "title": escape(f"{run.name} · threed-gen"),
            "kicker": escape(f"threed-gen · {run.config.get('task', 'run')}"),
            "name": escape(run.name),
            "badge": badge(run),
            "lead": lead(run),
            "tiles": tiles(run),
            "alerts": alerts(run),
            "nav": "".join(f'<a href="#{title.lower()}">{title}</a>' for title in shown),
            "sections": "\n".join(
                f'<section id="{title.lower()}"><h2>{title}</h2>{body}</section>'
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


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Replace every `{{name}}` once; what was filled in is never looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def script(path: Path) -> str:
    """A script's text for a `<script>` element."""
    text = path.read_text("utf-8")
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError(f"{path.name} holds text that would end the <script> element it is put in")
    return text

"""The page of a run: curves, numbers, and truth beside reconstruction in 3D.

`write_report` reads the run directory (run_data.py), draws the charts (curves.py), packs meshes
(meshes.py) and puts them into the frame that all pages share (document.py). Every text that comes
from the run is escaped.
"""

from __future__ import annotations

from pathlib import Path

from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.report.charts import charts_section
from threed_gen.report.document import Document
from threed_gen.report.gallery import data_section, progress_section
from threed_gen.report.header import alerts, badge, lead, tiles
from threed_gen.report.run_data import RunData, read_run
from threed_gen.report.shapes import shapes_section
from threed_gen.report.steps import steps_section
from threed_gen.report.tables import config_section, metrics_section


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
    samples = steps_section(run)  # first: what it could not read stands in the alerts
    return Document(
        name=run.name,
        kicker=str(run.config.get("task", "run")),
        badge=badge(run),
        lead=lead(run),
        tiles=tiles(run),
        alerts=alerts(run),
        sections={
            "Shapes": shapes_section(run),
            "Samples": samples,
            "Metrics": metrics_section(run),
            "Curves": charts_section(run),
            "Progress": progress_section(run),
            "Data": data_section(run),
            "Configuration": config_section(run),
        },
    ).html()

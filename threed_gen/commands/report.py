"""`threed-gen report RUN|DATA`: the page of a run, or of prepared data."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.data.index import INDEX_NAME
from threed_gen.data.pack import REJECTS_NAME


def run(args: argparse.Namespace) -> int:
    """Prints the path of the page, alone, so that a script can open it."""
    path: Path = args.run
    if any((path / name).is_file() for name in (INDEX_NAME, REJECTS_NAME)):
        from threed_gen.report.data_page import write_data_report

        print(write_data_report(path))
    else:
        from threed_gen.report.page import write_report

        print(write_report(path))
    return 0

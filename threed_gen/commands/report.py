"""`threed-gen report RUN`: the page of a run."""

from __future__ import annotations

import argparse

from threed_gen.report.page import write_report


def run(args: argparse.Namespace) -> int:
    """Prints the path of the page, alone, so that a script can open it."""
    print(write_report(args.run))
    return 0

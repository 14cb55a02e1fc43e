"""`threed-gen resume RUN`: go on from the newest whole checkpoint."""

from __future__ import annotations

import argparse

from threed_gen.train import main


def run(args: argparse.Namespace) -> int:
    """Returns the training door's exit code."""
    return main(["--resume", str(args.run), *(["--fresh"] if args.fresh else [])])

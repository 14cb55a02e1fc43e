"""`threed-gen evaluate RUN`: measure a run on its shapes."""

from __future__ import annotations

import argparse

from threed_gen.training.validate import evaluate_run


def run(args: argparse.Namespace) -> int:
    """Writes RUN/evaluation.json and RUN/evaluation/*.ply, and shows the table."""
    evaluate_run(args.run, meshes=args.meshes)
    return 0

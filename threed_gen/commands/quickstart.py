"""`threed-gen quickstart`: the whole corridor once."""

from __future__ import annotations

import argparse

from threed_gen.quickstart.corridor import quickstart


def run(args: argparse.Namespace) -> int:
    """Also `make quickstart`."""
    quickstart(args.out, args.meshes)
    return 0

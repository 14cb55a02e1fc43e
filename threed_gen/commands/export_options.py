"""The options of `threed-gen export`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.commands.encode_options import add_weights_option

EXAMPLES = (
    "threed-gen export runs/first --out first/\n"
    "  threed-gen export runs/first --out first/ --to-hub name/first"
)


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """What, where to, and which weights."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    add_weights_option(parser)
    parser.add_argument(
        "--to-hub", metavar="NAME", help="upload it to the Hugging Face Hub, as USER/MODEL"
    )

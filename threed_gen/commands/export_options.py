"""The options of `threed-gen export`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "threed-gen export runs/first --out first/\n"
    "  threed-gen export runs/first --out first/ --to-hub name/first"
)


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """What, where to, and which weights."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        default="ema",
        help="the moving average (default), or the weights themselves",
    )
    parser.add_argument(
        "--to-hub", metavar="NAME", help="upload it to the Hugging Face Hub, as USER/MODEL"
    )

"""The options of `threed-gen convert`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "threed-gen convert --from direct3d-s2 direct3d-s2-v-1-1/ --out runs/released\n"
    "  threed-gen convert --to direct3d-s2 runs/released --out release/"
)


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """From or to which release."""
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="read", choices=("direct3d-s2",), help="what FOLDER is now")
    way.add_argument("--to", dest="write", choices=("direct3d-s2",), help="what to make of FOLDER")
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        help="--from: a release's folder; --to: run directories, or a folder of them",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        help="--to: the moving average (default), or the weights themselves",
    )
    parser.add_argument(
        "--fp16", action="store_true", help="--to: round to the released mixture of fp16 and fp32"
    )

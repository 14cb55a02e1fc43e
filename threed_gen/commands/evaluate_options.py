"""The options of `threed-gen evaluate`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.commands.numbers import count

EXAMPLES = (
    "threed-gen evaluate runs/first --meshes meshes/\n"
    "  threed-gen evaluate generated/ --against data/ --align unit --nearest\n"
    "  threed-gen evaluate runs/first --against held_out/ --out verdict/"
)


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """What against what, and how."""
    parser.add_argument(
        "run",
        metavar="RUN|DIR",
        type=Path,
        help="run directory (alone: writes RUN/evaluation.json), or a folder of meshes",
    )
    parser.add_argument(
        "--meshes",
        metavar="DIR",
        type=Path,
        help="the folder that was prepared: measures against the source meshes too",
    )
    parser.add_argument(
        "--against",
        metavar="DATA",
        type=Path,
        help="prepared data, or a folder of meshes: the truth, matched by name",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where results go (default: RUN|DIR.evaluated)"
    )
    parser.add_argument(
        "--align",
        choices=("none", "unit", "box"),
        default="none",
        help="the meshes are in the truth's frame (none), in the models' unit cube around the "
        "origin (unit), or shall be fitted box on box",
    )
    parser.add_argument(
        "--nearest", action="store_true", help="also: is each mesh nearest to its own truth?"
    )
    parser.add_argument(
        "--points", metavar="N", type=count, default=200_000, help="per surface (%(default)s)"
    )
    parser.add_argument(
        "--paper-points",
        metavar="N",
        type=count,
        default=1_000_000,
        help="of the point-to-point variant (%(default)s; 0: without)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=count,
        help="processes that read and measure (default: all cores; 0: this one, without limits)",
    )

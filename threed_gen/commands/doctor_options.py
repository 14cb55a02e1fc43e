"""The options of `threed-gen doctor`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.commands.numbers import count, positive

EXAMPLES = (
    "threed-gen doctor\n"
    "  threed-gen doctor --nodes --run runs/big --data data/big    (in a Slurm allocation)\n"
    "  threed-gen doctor --nodes 4 --gpus 8 --site cluster.yaml    (Slurm is asked for 4 nodes)\n"
    "  threed-gen doctor --hostfile hosts --run runs/big           (over ssh)"
)
NODES_ONLY = {"run", "data", "gpus", "site"}  # options that mean something with several nodes only


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """This machine, or many."""
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=positive,
        nargs="?",
        const=0,
        help="look at N nodes (all of the allocation or hostfile), as a job does before it starts",
    )
    parser.add_argument(
        "--hostfile", metavar="FILE", type=Path, help="the nodes, one 'name slots=8' a line"
    )
    parser.add_argument(
        "--run", metavar="DIR", type=Path, help="run directory that they share (default: here)"
    )
    parser.add_argument("--data", metavar="DIR", type=Path, help="prepared data that they read")
    parser.add_argument("--gpus", metavar="G", type=count, help="how many each node shall have")
    parser.add_argument(
        "--site", metavar="YAML", type=Path, help="account, partition … (docs/launching.md)"
    )

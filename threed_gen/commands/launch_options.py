"""The options of `threed-gen launch`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.commands.numbers import positive

LAUNCHERS = ("sbatch", "deepspeed", "mpirun", "torchrun")

EXAMPLES = (
    "threed-gen launch configs/ss_vae/direct3d-s2.yaml --nodes 4 --gpus 8 --out runs/big "
    "--site cluster.yaml --dry-run data.path=data/big train.batch_samples=128\n"
    "  threed-gen launch runs/big --nodes 2 --gpus 8 --site cluster.yaml\n"
    "  threed-gen launch configs/ss_vae/tiny.yaml --nodes 2 --gpus 1 --out runs/two "
    "--with deepspeed --hostfile hosts train.batch_samples=4"
)


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """CONFIG or RUN, how many, with what, and how."""
    parser.add_argument(
        "what", metavar="CONFIG|RUN", help="a YAML file begins a run, a run directory goes on"
    )
    parser.add_argument("--out", metavar="RUN", type=Path, help="CONFIG: the run directory")
    parser.add_argument("--nodes", metavar="N", type=positive, required=True)
    parser.add_argument(
        "--gpus", metavar="G", type=positive, required=True, help="ranks on each node"
    )
    parser.add_argument(
        "--with", dest="launcher", choices=LAUNCHERS, default="sbatch", help="(default: sbatch)"
    )
    parser.add_argument(
        "--site",
        metavar="YAML",
        type=Path,
        help="account, partition, container … of this cluster (docs/launching.md)",
    )
    parser.add_argument(
        "--hostfile",
        metavar="FILE",
        type=Path,
        help="the nodes, one 'name slots=8' a line; for all but sbatch when there are several",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print everything that would happen, do nothing"
    )
    parser.add_argument(
        "--detach", action="store_true", help="sbatch: do not follow the log after submitting"
    )
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="CONFIG: changes to it: train.steps=500"
    )

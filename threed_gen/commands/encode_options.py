"""The options of `threed-gen encode`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.commands.prepare_options import add_rank_options

EXAMPLES = (
    "threed-gen encode runs/vae data/ --out latents/\n"
    "  threed-gen encode runs/vae data/ --out latents/ --resolution 256 384 --values fp16\n"
    "  mpirun -n 9 threed-gen encode runs/vae data/ --out latents/ --mpi"
)


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    """What, how, and which share of it."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of an SS-VAE")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder made by `prepare`")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="where latents/ and the index go"
    )
    parser.add_argument(
        "--resolution", metavar="R", type=int, nargs="+", help="(default: those of the run)"
    )
    add_weights_option(parser)
    parser.add_argument(
        "--values", choices=("fp32", "fp16"), default="fp32", help="precision (default: fp32)"
    )
    parser.add_argument(
        "--store",
        choices=("mode", "posterior"),
        default="posterior",
        help="mean and variance (default), from which training may draw, or the mean alone",
    )
    parser.add_argument(
        "--split",
        choices=("train", "held_out", "all"),
        default="all",
        help="which samples (default: all)",
    )
    group = parser.add_argument_group(
        "ranks",
        "Start the same command N times, as with `prepare`: by a Slurm array job, srun or mpirun,\n"
        "or with these options. Each rank encodes the samples that a hash of their id gives it,\n"
        "and the last one packs.",
    )
    add_rank_options(group, "one sample at a time")


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """Which of a run's two sets of weights is meant."""
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        default="ema",
        help="the moving average (default), or the weights themselves",
    )

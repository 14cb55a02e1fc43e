"""The options of `threed-gen generate`, in words."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
threed-gen generate chair.png --run runs/ss_dit --out chair.glb
  threed-gen generate photos/*.png --run runs/ss_dit --out meshes/ --format obj --batch 4
  threed-gen generate chair.png --run runs/512 --cascade runs/1024 --out chair.glb --faces 200000
  threed-gen generate photo.jpg --run runs/ss_dit --background remove --seed 7 --out photo.glb"""
FORMATS = ("glb", "obj", "ply")


def add_generate_options(parser: argparse.ArgumentParser) -> None:
    """Images, runs and where to, then what else may be wished for."""
    add = parser.add_argument
    add("images", metavar="IMAGE", type=Path, nargs="+", help="PNG, JPEG or WebP, one shape each")
    add("--run", metavar="RUN", type=Path, required=True, help="a trained run of task ss_dit")
    add("--out", metavar="FILE|DIR", required=True, help="chair.glb (.obj, .ply), or a folder")
    runs = parser.add_argument_group("other runs (default: those that RUN remembers)")
    runs.add_argument("--structure", metavar="RUN", type=Path, help="run of task structure_dit")
    runs.add_argument("--vae", metavar="RUN", type=Path, help="where the run's SS-VAE lies now")
    runs.add_argument(
        "--cascade", metavar="RUN", type=Path, help="SS-DiT of a finer grid, that goes on from RUN"
    )
    runs.add_argument(
        "--weights",
        choices=("ema", "model"),
        default="ema",
        help="the moving average (default), or the weights themselves",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--seed", type=int, default=0, help="same seed, same mesh (%(default)s)")
    sampling.add_argument(
        "--steps", metavar="N", type=int, help="of every stage (default: as in the runs' configs)"
    )
    sampling.add_argument(
        "--guidance", metavar="W", type=float, help="of every stage; 1 is none (default: as there)"
    )
    sampling.add_argument(
        "--one-pass", action="store_true", help="guide in one call: faster on a GPU, more memory"
    )
    sampling.add_argument(
        "--batch", metavar="N", type=int, default=1, help="images at once (%(default)s)"
    )
    sampling.add_argument(
        "--background",
        choices=("keep", "remove"),
        help="of images without transparency: all of it is the shape, or cut the shape out",
    )
    mesh = parser.add_argument_group("mesh")
    mesh.add_argument("--format", choices=FORMATS, help="of the files in a folder (glb)")
    mesh.add_argument(
        "--level", metavar="S", type=float, default=0.0, help="of the surface, in τ; released: 0.2"
    )
    mesh.add_argument(
        "--keep-inner", action="store_true", help="keep parts that do not touch the outside"
    )
    mesh.add_argument("--fill-holes", action="store_true", help="close openings up to 10 %% wide")
    mesh.add_argument("--faces", metavar="N", type=int, help="simplify to about so many")
    mesh.add_argument(
        "--chunk",
        metavar="CELLS",
        type=int,
        default=32,
        help="decode cubes of that many latent cells: less is less memory (%(default)s)",
    )

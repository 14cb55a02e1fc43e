"""The options of `threed-gen inspect`. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "threed-gen inspect data/ --extract meshes_back/\n"
    "  threed-gen inspect configs/ss_vae/direct3d-s2.yaml\n"
    "  threed-gen inspect runs/first\n"
    "  threed-gen inspect chair.glb --out chair.png\n"
    "  threed-gen inspect plan configs/ss_vae/direct3d-s2.yaml --nodes 8 --gpus 8 "
    "data.path=data/big"
)


def add_inspect_options(parser: argparse.ArgumentParser) -> None:
    """What, and what to make of it."""
    parser.add_argument("what", metavar="DATA|CONFIG|RUN|MESH", help="it is recognised by itself")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="after `plan CONFIG|RUN|DATA`: changes to the config",
    )
    parser.add_argument(
        "--extract", metavar="DIR", type=Path, help="DATA: write one mesh per sample"
    )
    parser.add_argument(
        "--resolution", metavar="R", type=int, help="DATA: which of the stored ones (finest)"
    )
    parser.add_argument("--out", metavar="PNG", type=Path, help="DATA, MESH: write a picture")
    parser.add_argument("--verify", action="store_true", help="DATA: read and check every shard")
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="plan: (default: 1)")
    parser.add_argument(
        "--gpus", metavar="G", type=int, default=8, help="plan: ranks on each node (default: 8)"
    )

"""`threed-gen train CONFIG --out RUN [key=value …]`: one rank, in this process.

Several ranks are started by torchrun, deepspeed, mpirun or srun on `threed_gen/train.py`, the same
door.
"""

from __future__ import annotations

import argparse

from threed_gen.commands.configs import find_config
from threed_gen.train import main


def run(args: argparse.Namespace) -> int:
    """Returns the training door's exit code."""
    return main(
        ["--config", str(find_config(args.config)), "--out", str(args.out), *args.overrides]
    )

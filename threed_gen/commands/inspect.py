"""`threed-gen inspect WHAT`: numbers and a picture of prepared data, a config, a run or a mesh.

`threed-gen inspect plan CONFIG` shows who would read what.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.errors import UserError


def run(args: argparse.Namespace) -> int:
    """Recognise what is asked about and hand it to the part that knows it."""
    if args.what == "plan" and (args.overrides or not Path("plan").exists()):
        from threed_gen.commands.inspect_plan import show_plan

        show_plan(args.overrides, args.nodes, args.gpus)
        return 0
    if args.overrides:
        raise UserError(
            f"inspect looks at one thing, not also at {args.overrides[0]}; "
            "`inspect plan` alone takes key=value"
        )
    path = Path(args.what)
    suffix = path.suffix.lower()
    if path.is_dir() and (path / "config.yaml").is_file():
        from threed_gen.commands.inspect_run import show_run

        show_run(path)
    elif path.is_dir():
        from threed_gen.commands.inspect_data import draw, extract, show_data, verify

        show_data(path)
        if args.verify:
            verify(path)
        if args.extract is not None:
            extract(path, args.extract, args.resolution)
        if args.out is not None:
            draw(path, args.out, args.resolution)
    elif suffix in (".yaml", ".yml"):
        from threed_gen.commands.configs import find_config
        from threed_gen.commands.inspect_config import show_config

        show_config(find_config(args.what))
    elif path.is_file():
        from threed_gen.commands.inspect_mesh import show_mesh

        show_mesh(path, args.out)
    else:
        raise UserError(
            f"{path}: not found; give a folder of prepared data, a config (.yaml), a run "
            "directory or a mesh file"
        )
    return 0

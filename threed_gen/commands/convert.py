"""`threed-gen convert --from|--to direct3d-s2 FOLDER… --out DIR`: released weights, both ways."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from threed_gen.console import table
from threed_gen.errors import UserError
from threed_gen.models.official.folder import left_out, read_config
from threed_gen.models.official.networks import SLOTS
from threed_gen.training.official_runs import Converted, convert_from, convert_to
from threed_gen.training.run_dir import RunDir


def run(args: argparse.Namespace) -> int:
    """Convert, show what went through, and name what did not."""
    if args.read is not None:
        if args.fp16 or args.weights is not None:
            raise UserError(
                "convert --from: takes weights as they are; leave out --fp16, --weights"
            )
        return _from(args.folders, args.out)
    done = convert_to(runs_in(args.folders), args.out, args.weights or "ema", args.fp16)
    _show(done)
    absent = [slot.section for slot in SLOTS if slot not in {one.slot for one in done}]
    print(
        f"{args.out}: {len(done)} of {len(SLOTS)} networks of a release"
        + (f"; not given: {', '.join(absent)}" if absent else "")
    )
    print(
        "The official pipeline also wants refiners, which this project has none of: copy "
        "model_refiner*.ckpt and the sections refiner and refiner_1024 from the release"
    )
    return 0


def _from(folders: Sequence[Path], out: Path) -> int:
    if len(folders) != 1:
        raise UserError(f"convert --from: give one folder, not {len(folders)}")
    (folder,) = folders
    sections = read_config(folder)
    done = convert_from(folder, out)
    _show(done)
    skipped = left_out(folder, sections)
    print(
        f"left out: {len(skipped)} names of refiners ({', '.join(skipped) or 'there are none'}); "
        "they smooth the official pipeline's fields and are no networks of this project"
    )
    absent = [slot.section for slot in SLOTS if slot.section not in sections]
    if absent:
        print(f"not in {folder / 'config.yaml'}: {', '.join(absent)}")
    return 0


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """The run directories among the folders, and inside those that are none themselves."""
    found = []
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/config.yaml"))
        if RunDir(folder).config.is_file():
            found.append(folder)
        elif inside:
            found += inside
        else:
            raise UserError(f"{folder}: neither a run directory nor a folder of run directories")
    return found


def _show(done: Sequence[Converted]) -> None:
    rows = [
        (one.slot.section, f"{one.tensors}", f"{one.parameters:,}", one.precision, str(one.path))
        for one in done
    ]
    print(table(["network", "tensors", "parameters", "precision", "written"], rows))

"""`python -m kernels.offline`: what the project's Triton kernels need on GPUs that are not here.

Compiles for sm_80 (A100), sm_90 (H100, H200) and sm_100 (B200) and prints registers, spills, shared
memory and matrix instructions. Fails when a kernel spills, exceeds a limit or misses the matrix
unit; with --check also when it needs more than a kept table says.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kernels.offline import table
from kernels.offline.resources import TARGETS

# Modules with a function `cases(everything)` that yields names and functions that launch kernels.
CASES = ("kernels.ssa.gpu.configurations",)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when something is worse, 2 when nothing can be compiled."""
    args = _arguments(argv)
    obstacle = _obstacle()
    if obstacle:
        sys.stderr.write(f"kernels.offline: {obstacle}\n")
        return 2
    kept = table.read(args.check) if args.check else None
    start = time.monotonic()
    rows = []
    for target in args.target or TARGETS:
        rows += list(_compiled(target, args.all))
        sys.stdout.write(table.layout([row for row in rows if row.target == target]) + "\n\n")
    now = table.Table(_version(), tuple(rows))
    seconds = time.monotonic() - start
    sys.stdout.write(f"{len(rows)} kernels in {seconds:.0f} s, Triton {now.triton}\n")
    if args.write:
        table.write(now, args.write)
    if kept is None:
        found = [sentence for row in rows for sentence in table.wrong(row)]
    else:
        found = table.worse(now, kept, complete=args.all)
        if kept.triton != now.triton:
            sys.stdout.write(
                f"{args.check} is of Triton {kept.triton}: only limits, matrix units and spills of "
                f"more than {table.SLACK} bytes were checked\n"
            )
    for sentence in found:
        sys.stderr.write(f"worse: {sentence}\n")
    return 1 if found else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m kernels.offline", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument(
        "--target", nargs="+", choices=TARGETS, metavar="sm_90",
        help=f"compile for these only, of {', '.join(TARGETS)}",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true",
        help="every configuration (10 minutes), not only the released and the recommended one",
    )  # fmt: skip
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with this kept table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the table here, as CSV")
    return parser.parse_args(argv)


def _obstacle() -> str | None:
    """What stands in the way of compiling, in one line."""
    try:
        from triton import knobs
    except ImportError:
        return "Triton is not installed (pip install triton; it exists for Linux only)"
    if knobs.runtime.interpret:
        return "TRITON_INTERPRET is set, so kernels are interpreted, not compiled: unset it"
    return None


def _version() -> str:
    import triton

    return str(triton.__version__)


def _compiled(target: str, everything: bool) -> Iterator[table.Row]:
    from kernels.offline.compilation import compile_launch
    from kernels.offline.launches import recorded

    seen = set()  # the first case that launches a kernel names its row
    for module in CASES:
        for case, run in importlib.import_module(module).cases(everything):
            with recorded(target) as launches:
                run()
            for launch in launches:
                if launch.identity() not in seen:
                    seen.add(launch.identity())
                    needs = compile_launch(launch, target)
                    yield table.Row(launch.name, case, target, needs)


if __name__ == "__main__":
    sys.exit(main())

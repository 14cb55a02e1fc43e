"""Check and time Spatial Sparse Attention on real coordinates, in calls of a few minutes.

    python -m benchmarks.ssa prepare --meshes FOLDER   # anywhere: coordinates, under 40 MiB
    python -m benchmarks.ssa                           # on a GPU: checks, then rows, 8 minutes
    python -m benchmarks.ssa                           # again: goes on where it stopped
    python -m benchmarks.ssa --list                    # what is done, what is left
    python -m benchmarks.ssa --stage headline --minutes 5
    python -m benchmarks.ssa --compare CHECKOUT        # with a checkout of Direct3D-S2 beside it
    python -m benchmarks.ssa table                     # write the page from the records again
    python -m benchmarks.ssa cpu                       # the CPU backend against PyTorch's
    python -m benchmarks.ssa --device cpu              # a try-out; its figures mean nothing

Timings begin when the checks of bf16 have passed; a failure stops the call. `--out` gets
`ssa-<gpu>-<date>.md` and a copy of the records. Exit code: 0 done, 1 a check of what is timed
failed, 2 could not start, 3 minutes spent with work left, 4 done but for some that failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.ssa.bench import Bench
    from benchmarks.ssa.stages import Records

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("run", "prepare", "table", "cpu")
DONE, FAILED, UNABLE, UNFINISHED, PARTLY = range(5)


def main(argv: list[str] | None = None) -> int:
    """Parse and dispatch."""
    args = _parser().parse_args(argv)
    if args.device == "cpu":  # Triton wants to know before it is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    from threed_gen.errors import UserError

    try:
        return {"run": run, "prepare": prepare, "table": write_page, "cpu": cpu}[args.command](args)
    except (FileNotFoundError, ValueError, UserError) as err:
        print(err, file=sys.stderr)
        return UNABLE


def prepare(args: argparse.Namespace) -> int:
    """Coordinates of all sizes; needs the geometry libraries."""
    from benchmarks.ssa.prepare import prepare as write

    return write(args.meshes, args.coordinates)


def cpu(args: argparse.Namespace) -> int:
    """The CPU backend; best with nothing else running."""
    from benchmarks.ssa.cpu import write_page as measure

    return measure(args.coordinates, args.out)


def run(args: argparse.Namespace) -> int:
    """The stages that are not done yet."""
    import torch

    from benchmarks.ssa import stages
    from benchmarks.ssa.machine import fingerprint
    from threed_gen.console import say

    if args.device == "cuda" and not torch.cuda.is_available():
        say("no GPU here. `--device cpu` tries the program out, `cpu` measures the CPU backend")
        return UNABLE
    bench, checked = _benches(args)
    todo = stages.units(bench, checked, args.commit)
    records = stages.Records(_records(args), fingerprint(bench))
    chosen = [unit for unit in todo if unit.stage in ("check", *(args.stage or stages.STAGES))]
    if args.list:
        for unit in todo:
            state = "done" if records.finished(unit) else f"{unit.seconds:.0f} s"
            print(f"{unit.stage:9} {state:>6}  {unit.name}")
        return DONE
    blocking = stages.first_checks(todo, checked)
    try:
        finished = stages.work(chosen, records, args.minutes, blocking)
    finally:  # also of a call that is stopped
        _write(args, records, smoke=bench.tiny)
    bad = {u.name for u in chosen if u.name in records.done and not records.finished(u)}
    if bad & set(blocking):
        return FAILED
    if not finished:
        return UNFINISHED
    return PARTLY if bad else DONE


def write_page(args: argparse.Namespace) -> int:
    """The page from records that were brought here from another machine."""
    from benchmarks.ssa.stages import Records

    path = _records(args)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no records there")
    last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    _write(args, Records(path, last["fingerprint"]), smoke=args.device == "cpu")
    return DONE


def _benches(args: argparse.Namespace) -> tuple[Bench, Bench]:
    """What is timed, and what is checked: on a CPU the kernels are too slow to be timed."""
    import torch

    from benchmarks.ssa.bench import Bench, tiny_bench
    from benchmarks.ssa.coordinates import load

    if args.device == "cpu":
        timed = tiny_bench()
        return timed, dataclasses.replace(timed, backend=args.backend or "triton")
    bench = Bench(
        torch.device(args.device), load(args.coordinates), args.backend or "triton",
        torch.bfloat16, args.top_k, compare=args.compare,
    )  # fmt: skip
    return bench, bench


def _write(args: argparse.Namespace, records: Records, smoke: bool) -> None:
    from benchmarks.ssa.table import page
    from threed_gen.console import say

    about = records.done.get("machine", {})
    name = re.sub(r"[^a-z0-9]+", "-", str(about.get("machine", "unknown")).lower()).strip("-")
    name = "smoke-cpu" if smoke else name.removeprefix("nvidia-")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"ssa-{name}-{about.get('date', 'undated')}.md"
    path.write_text(page(records.done, smoke), encoding="utf-8")
    copy = args.out / _records(args).name
    if args.out != args.results and copy.resolve() != _records(args).resolve():
        shutil.copyfile(_records(args), copy)  # the device machine keeps nothing but --out
    say(f"written: {path}")


def _records(args: argparse.Namespace) -> Path:
    path: Path = args.records or ROOT / "build" / "ssa" / f"records-{args.device}.jsonl"
    return path


def _parser() -> argparse.ArgumentParser:
    data = ROOT / "benchmarks" / "gpu_data" / "ssa_coordinates.safetensors"
    results = ROOT / "benchmarks" / "results"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ssa", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("command", nargs="?", choices=COMMANDS, default="run")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--meshes", type=Path, help="prepare: folder of meshes (default: 12 procedural shapes)")
    add("--coordinates", type=Path, default=data, help="file that `prepare` writes")
    add("--stage", nargs="+", choices=["headline", "sizes", "types", "heads", "patterns"],
        help="only these, after the checks")  # fmt: skip
    add("--list", action="store_true", help="show what there is to do, and do nothing")
    add("--minutes", type=float, default=8.0, help="begin nothing after so long (default 8)")
    add("--compare", type=Path, help="checkout of the official code, timed side by side")
    add("--top-k", type=int, default=8, help="blocks that a query chooses (default 8)")
    add("--backend", choices=["triton", "cpu"], help="what is checked (default triton)")
    add("--commit", help="for the page, where the machine has no git")
    add("--records", type=Path, help="finished work (default build/ssa/records-<device>.jsonl)")
    add("--out", type=Path, default=results, help="folder of the page (default benchmarks/results)")
    parser.set_defaults(results=results)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Check and time a training step of the SS-DiT on real coordinates, in calls of a few minutes.

    python -m benchmarks.ss_dit prepare --meshes FOLDER   # anywhere: shapes at 512³ and 1024³
    python -m benchmarks.ss_dit                           # on a GPU: checks, then rows, 7 minutes
    python -m benchmarks.ss_dit                           # again: goes on where it stopped
    python -m benchmarks.ss_dit --list                    # what is done, what is left
    python -m benchmarks.ss_dit --stage 1.1 --minutes 5
    python -m benchmarks.ss_dit table                     # write the page from the records again
    python -m benchmarks.ss_dit --toy                     # a try-out on a CPU; figures mean nothing

Timings begin when the checks of loss and gradients have passed; a failure stops the call. `--out`
gets `ss_dit-<gpu>-<date>.md` and a copy of the records. Exit code: 0 done, 1 a check of what is
timed failed, 2 could not start, 3 minutes spent with work left, 4 done but for some that failed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.ss_dit.cases import Bench
    from benchmarks.ssa.stages import Records

ROOT = Path(__file__).resolve().parents[2]
DONE, FAILED, UNABLE, UNFINISHED, PARTLY = range(5)
CHOICES = (
    "check", "1.1", "recommended", "1.0", "compiled-1.1", "compiled-recommended", "compiled-1.0",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Parse and dispatch."""
    args = _parser().parse_args(argv)
    from threed_gen.errors import UserError

    try:
        return {"run": run, "prepare": prepare, "table": write_page}[args.command](args)
    except (FileNotFoundError, ValueError, UserError) as err:
        print(err, file=sys.stderr)
        return UNABLE


def prepare(args: argparse.Namespace) -> int:
    """Shapes of both sizes; needs the geometry libraries."""
    from benchmarks.ss_dit.prepare import prepare as write

    return write(args.meshes, args.coordinates)


def run(args: argparse.Namespace) -> int:
    """The stages that are not done yet."""
    import torch

    from benchmarks.ss_dit import stages
    from benchmarks.ssa.stages import Records, work
    from threed_gen.console import say

    if not args.toy and not torch.cuda.is_available():
        say("no GPU here. `--toy` tries the program out")
        return UNABLE
    bench = _bench(args)
    todo = stages.units(bench, args.commit)
    records = Records(_records(args), stages.fingerprint(bench))
    chosen = todo
    if args.stage is not None:
        chosen = [unit for unit in todo if unit.stage in ("check", *args.stage)]
    if args.list:
        for unit in todo:
            state = "done" if records.finished(unit) else f"{unit.seconds:.0f} s"
            print(f"{unit.stage:20} {state:>6}  {unit.name}")
        return DONE
    blocking = stages.first_checks(todo)
    try:
        finished = work(chosen, records, args.minutes, blocking)
    finally:  # also of a call that is stopped
        _write(args, records)
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
    whole = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_record(line)]
    if not whole:
        raise ValueError(f"{path}: holds no whole record")
    _write(args, Records(path, json.loads(whole[-1])["fingerprint"]))
    return DONE


def _is_record(line: str) -> bool:
    try:
        return "fingerprint" in json.loads(line)
    except json.JSONDecodeError:  # cut off in the middle of writing
        return False


def _bench(args: argparse.Namespace) -> Bench:
    import torch

    from benchmarks.ss_dit.cases import Bench, toy_bench
    from benchmarks.ss_dit.prepare import load

    return toy_bench() if args.toy else Bench(torch.device("cuda"), load(args.coordinates))


def _write(args: argparse.Namespace, records: Records) -> None:
    from benchmarks.ss_dit.table import page
    from threed_gen.console import say

    about = records.done.get("machine", {})
    name = re.sub(r"[^a-z0-9]+", "-", str(about.get("machine", "unknown")).lower()).strip("-")
    name = "toy-cpu" if args.toy else name.removeprefix("nvidia-")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"ss_dit-{name}-{about.get('date', 'undated')}.md"
    path.write_text(page(records.done, args.toy), encoding="utf-8")
    copy = args.out / _records(args).name
    source = _records(args)
    if args.out != args.results and source.is_file() and copy.resolve() != source.resolve():
        shutil.copyfile(source, copy)  # a machine that is lent keeps nothing but --out
    say(f"written: {path}")


def _records(args: argparse.Namespace) -> Path:
    kind = "toy" if args.toy else "cuda"
    path: Path = args.records or ROOT / "build" / "ss_dit" / f"ss_dit-records-{kind}.jsonl"
    return path


def _parser() -> argparse.ArgumentParser:
    data = ROOT / "benchmarks" / "gpu_data" / "ss_dit_coordinates.safetensors"
    results = ROOT / "benchmarks" / "results"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ss_dit", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("command", nargs="?", choices=("run", "prepare", "table"), default="run")
    add("--toy", action="store_true", help="tiny sizes on the CPU; its figures mean nothing")
    add("--meshes", type=Path, help="prepare: folder of meshes (default: 12 procedural shapes)")
    add("--coordinates", type=Path, default=data, help="file that `prepare` writes")
    add("--stage", nargs="+", choices=CHOICES, help="only these, behind the checks")
    add("--list", action="store_true", help="show what there is to do, and do nothing")
    add("--minutes", type=float, default=7.0, help="begin nothing that ends later (default 7)")
    add("--commit", help="for the page, where the machine has no git")
    add("--records", type=Path, help="finished work (default build/ss_dit/)")
    add("--out", type=Path, default=results, help="folder of the page (default benchmarks/results)")
    parser.set_defaults(results=results)
    return parser


if __name__ == "__main__":
    sys.exit(main())

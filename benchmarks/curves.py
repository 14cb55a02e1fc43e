"""Expected curves of a tiny config: five seeds give a band, others check it, defects must leave it.

The parts that `expected_quickstart.py` (the quickstart's three models) and
`expected_flow_curves.py` (the SS-DiT on one common token set) share.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from threed_gen.evaluation.expected import (
    WINDOWS,
    Band,
    departures,
    load_band,
    make_band,
    records,
    run_curves,
)

ROOT = Path(__file__).resolve().parent.parent
COLORS = ["#2b6cb0", "#2f855a", "#b7791f", "#c05621", "#6b46c1"]


@dataclass(frozen=True)
class Case:
    """One tiny config and its committed band."""

    config: Path
    expected: Path  # .json; the picture lies beside it
    seeds: tuple[int, ...]
    extra_seeds: tuple[int, ...]  # trained to check the band
    overrides: Callable[[Path], list[str]]  # of every run, from the work folder
    # Each defect: code that runs before the training door, and overrides.
    defects: dict[str, tuple[str, list[str]]]
    defect_windows: int  # that a defect is given to show itself
    drawn: tuple[str, ...] | None = None  # curves in the picture; None: all


def start(case: Case, code: str, run: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Train in the background, one thread; `code` runs first (a defect, or nothing)."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\n"
        "from threed_gen import train\ntrain.leave(train.main(sys.argv[1:]))\n"
    )
    arguments = ["--config", str(case.config), "--out", str(run), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env=environment, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


def train_seeds(case: Case, work: Path, overrides: list[str]) -> list[Path]:
    """Train the seeds that are not there yet, two at a time; returns their run directories."""
    seeds = [*case.seeds, *case.extra_seeds]
    runs = {seed: work / f"seed_{seed}" for seed in seeds}
    waiting = [seed for seed in seeds if not (runs[seed] / "finished.json").exists()]
    running: dict[int, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < 2:
            seed = waiting.pop(0)
            running[seed] = start(case, "", runs[seed], [*overrides, f"seed={seed}"])
            print(f"seed {seed} started", flush=True)
        for seed, process in list(running.items()):
            if process.poll() is not None:
                del running[seed]
                if process.returncode:
                    raise SystemExit(f"seed {seed} ended with code {process.returncode}")
                print(f"seed {seed} done", flush=True)
        time.sleep(1)
    return [runs[seed] for seed in seeds]


def make(case: Case, work: Path) -> int:
    """The first seeds give the band; the further ones must stay inside."""
    return write_band(case, train_seeds(case, work, case.overrides(work)))


def write_band(case: Case, runs: list[Path]) -> int:
    """The committed files from the runs of all seeds; 1 when a further seed leaves the band."""
    steps = int(records(runs[0] / "metrics.jsonl")[-1]["step"])
    curves = [run_curves(run, steps) for run in runs]
    band = make_band(curves[: len(case.seeds)], steps)
    outside = [line for one in curves[len(case.seeds) :] for line in departures(one, band)]
    tree = {
        "config": str(case.config.relative_to(ROOT)), "date": f"{datetime.date.today()}",
        "seeds": list(case.seeds), "checked_with_seeds": list(case.extra_seeds),
        "windows": WINDOWS, "steps": steps, "mean": band.mean, "low": band.low, "high": band.high,
    }  # fmt: skip
    case.expected.write_text(json.dumps(tree, indent=1) + "\n")
    case.expected.with_suffix(".svg").write_text(picture(band, case.drawn))
    for run in runs:
        lines = records(run / "metrics.jsonl")
        print(f"{run}: final loss / loss at step 10 = {lines[-1]['loss'] / lines[9]['loss']:.4f}")
    print("\n".join(outside) or f"{case.config}: seeds {list(case.extra_seeds)} stay inside")
    return bool(outside)


def check(case: Case, run: Path) -> int:
    """Compare a run, finished or not, with the committed band."""
    band = load_band(case.expected)
    lines = departures(run_curves(run, band.steps), band)
    print("\n".join(lines) or f"{run}: inside the band")
    return bool(lines)


def break_it(case: Case, work: Path) -> int:
    """Every defect must leave the band within the first windows."""
    band, overrides, missed = load_band(case.expected), case.overrides(work), 0
    wanted = case.defect_windows * band.window
    for number, (name, (code, more)) in enumerate(case.defects.items()):
        run = work / f"defect_{number}"
        process = start(case, code, run, [*overrides, *more])
        while process.poll() is None and len(records(run / "metrics.jsonl")) <= wanted:
            time.sleep(1)
        process.kill()
        process.wait()
        lines = departures(run_curves(run, band.steps), band)
        missed += not lines
        print(f"{name}: {len(lines)} departures" + (f", first: {lines[0]}" if lines else ""))
    return missed


def picture(band: Band, drawn: tuple[str, ...] | None = None) -> str:
    """The bands as one small SVG, logarithmic."""
    colors = dict(zip(drawn or band.mean, COLORS, strict=False))
    values = [v for name in colors for v in band.high[name]]
    lows = [max(v, 1e-5) for name in colors for v in band.mean[name]]
    top, bottom = math.log10(max(values)), math.log10(min(lows)) - 0.3

    def height(value: float) -> float:
        return 20 + 300 * (top - math.log10(max(value, 10**bottom))) / (top - bottom)

    def points(curve: list[float]) -> list[str]:
        """A window in its middle; of a curve with fewer points each where it was taken."""
        width, place = 560 / len(curve), 0.5 if len(curve) == WINDOWS else 1.0
        return [f"{60 + width * (k + place):.1f},{height(v):.1f}" for k, v in enumerate(curve)]

    parts = []
    for number, (name, color) in enumerate(colors.items()):
        around = " ".join(points(band.high[name]) + points(band.low[name])[::-1])
        parts.append(f'<polygon points="{around}" fill="{color}" opacity="0.2"/>')
        mean = " ".join(points(band.mean[name]))
        parts.append(f'<polyline points="{mean}" fill="none" stroke="{color}"/>')
        place = f'x="616" y="{34 + 16 * number}" text-anchor="end"'
        parts.append(f'<text {place} fill="{color}">{name}</text>')
    for power in range(math.ceil(bottom), math.floor(top) + 1):
        y = f"{height(10.0**power):.1f}"
        parts.append(f'<line x1="60" x2="620" y1="{y}" y2="{y}" stroke="#bbb" stroke-width="0.5"/>')
        parts.append(f'<text x="54" y="{float(y) + 4}" text-anchor="end">1e{power}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 350" font-size="12" '
        'font-family="sans-serif"><rect width="700" height="350" fill="white"/>'
        + "".join(parts)
        + f'<text x="340" y="342" text-anchor="middle">{band.steps} steps</text></svg>\n'
    )


Action = Callable[[Path], int]


def main(case: Case, about: str) -> int:
    """The command line of one band."""
    return command_line(
        about,
        make=lambda work: make(case, work),
        check=lambda run: check(case, run),
        break_=lambda work: break_it(case, work),
    )


def command_line(about: str, make: Action, check: Action, break_: Action) -> int:
    """`make --work DIR`, `check RUN` or `break --work DIR`; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "break"):
        commands.add_parser(name).add_argument("--work", type=Path, required=True)
    commands.add_parser("check").add_argument("run", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "check":
        return check(arguments.run)
    arguments.work.mkdir(parents=True, exist_ok=True)
    return (make if arguments.command == "make" else break_)(arguments.work)

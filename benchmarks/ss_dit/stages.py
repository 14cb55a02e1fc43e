"""What there is to do, the most important first; done and written down as `benchmarks.ssa` does it.

First the checks, then the released model 1.1, ours, the released 1.0; then all once more compiled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ss_dit.cases import RIVALS, TOKENS, Bench, Case
from benchmarks.ss_dit.correctness import FIRST, Check, checks
from benchmarks.ss_dit.measure import measure
from benchmarks.ssa import machine
from benchmarks.ssa.coordinates import ROOT
from benchmarks.ssa.stages import Do, Unit

GROUPS = {
    "1.1": ("1.1",), "recommended": ("recommended",), "1.0": ("1.0, top-k 32", "1.0, top-k 8"),
}  # fmt: skip
STAGES = ("check", *GROUPS, *(f"compiled-{name}" for name in GROUPS))
BATCHES = (("10k", 1), ("46k", 1), ("10k", 8))
TOY_CASES = 2  # of each stage
# Files that figures depend on.
FOLDERS = ("kernels", "threed_gen/models", "threed_gen/sparse", "threed_gen/flow")
SOURCES = ("cases", "flops", "full_attention", "measure", "step", "timing")
# For estimates alone.
CHECK_SECONDS, ROW_SECONDS, COMPILE_SECONDS = 30.0, 30.0, 150.0
PARAMETERS, DEPTH, WIDTH = 510e6, 24, 1024
PASSES, LEAST_SECONDS, RATE = 16, 18.0, 150e12  # steps of a row, its three medians, FLOP/s


def cases() -> dict[str, list[Case]]:
    """The rows of each stage, in order."""
    found: dict[str, list[Case]] = {}
    for compiled in (False, True):
        for name, models in GROUPS.items():
            found[f"compiled-{name}" if compiled else name] = [
                Case(model, size, samples, attention, checkpoint, compiled)
                for size, samples in BATCHES for checkpoint in (False, True) for model in models
                for attention in ("ssa", "full") if attention == "ssa" or RIVALS[model] == model
            ]  # fmt: skip
    return found


def units(bench: Bench, commit: str | None = None) -> list[Unit]:
    """Everything there is to do."""
    found = [Unit("check", "machine", 0.0, lambda: about(bench, commit))]
    for name, check in checks().items():
        found.append(Unit("check", f"check: {name}", CHECK_SECONDS, _check(bench, check)))
    for stage, rows in cases().items():
        found += [
            Unit(stage, f"row: {case}", seconds(case), _row(bench, case))
            for case in rows[: TOY_CASES if bench.toy else None]
        ]
    return found


def first_checks(todo: Sequence[Unit]) -> list[str]:
    """Checks without which nothing is timed."""
    begin = tuple(f"check: {kind} " for kind in FIRST)
    return [unit.name for unit in todo if unit.name.startswith(begin)]


def seconds(case: Case) -> float:
    """About how long a row takes, rather too much than too little."""
    tokens = float(case.samples * TOKENS[case.size])
    flops = 6 * PARAMETERS * tokens * (4 / 3 if case.checkpoint else 1)
    if case.attention == "full":
        flops += 14 * TOKENS[case.size] * tokens * WIDTH * DEPTH
    working = max(LEAST_SECONDS, PASSES * flops / RATE)
    return ROW_SECONDS + working + (COMPILE_SECONDS if case.compiled else 0)


def about(bench: Bench, commit: str | None = None) -> dict[str, Any]:
    """What the page says first."""
    precision = "bf16 autocast, fp32 weights" if bench.half else "fp32"
    shapes = {
        size: [[one.mesh, one.resolution, one.tokens] for one in sets]
        for size, sets in bench.sets.items()
    }
    return {**machine.about(bench.device, commit, precision=precision), "shapes": shapes}


def fingerprint(bench: Bench) -> str:
    """All that a figure depends on, in a few letters."""
    digest = hashlib.sha256()
    own = [Path(__file__).with_name(f"{name}.py") for name in SOURCES]
    for path in [*sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py")), *own]:
        digest.update(path.read_bytes())
    sets = {name: [one.tokens for one in sets] for name, sets in bench.sets.items()}
    digest.update(repr([machine.device_name(bench.device), torch.__version__, sets]).encode())
    return digest.hexdigest()[:12]


def _check(bench: Bench, check: Check) -> Do:
    return lambda: {"findings": [one.record() for one in check(bench)]}


def _row(bench: Bench, case: Case) -> Do:
    return lambda: measure(bench, case)

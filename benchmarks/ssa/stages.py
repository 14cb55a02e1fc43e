"""What there is to do, in what order, and going on where the last call stopped.

The work is a list of units of seconds each: checks, rows, rivals. A call does them in order until
its minutes are spent. Every finished unit is a line of a JSON file, and the next call skips it.
Lines count only for the same kernels, GPU and PyTorch: after a change all is to be done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ssa import machine, official, rivals
from benchmarks.ssa.bench import Bench
from benchmarks.ssa.coordinates import SIZES
from benchmarks.ssa.correctness import checks
from benchmarks.ssa.problem import PATTERNS, Shape
from benchmarks.ssa.rows import Row, measure
from threed_gen.console import say

STAGES = ("check", "headline", "sizes", "types", "heads", "patterns")
WIDE, NARROW, HALF = Shape(32, 64), Shape(32, 32), Shape(16, 64)
MAIN = "128k"
# For estimates alone; measured times replace them nowhere.
CHECK_SECONDS, ROW_SECONDS = 20.0, 12.0
TINY_ROWS = 2  # of each stage, where the program is only tried out
FULL_PASSES, FULL_RATE = 4 * (1 + 2.5), 250e12  # runs of full attention, FLOP/s

Do = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Unit:
    """One thing to do, and about how long it takes."""

    stage: str
    name: str
    seconds: float
    do: Do


class Records:
    """The finished units of one fingerprint, in a JSON-lines file that keeps all of them."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self.done: dict[str, dict[str, Any]] = {}
        if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
            with path.open("a", encoding="utf-8") as file:  # a line that was cut off stands alone
                file.write("\n")
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut off in the middle of writing
                continue
            if record.get("fingerprint") == fingerprint:
                self.done[record["name"]] = record

    def add(self, unit: Unit, result: dict[str, Any]) -> None:
        """Write a finished unit down."""
        record = {
            "name": unit.name, "stage": unit.stage, "fingerprint": self._fingerprint, **result,
        }  # fmt: skip
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.done[unit.name] = record

    def finished(self, unit: Unit) -> bool:
        """Done, and not failed: what failed is tried again."""
        record = self.done.get(unit.name)
        return record is not None and not failed(record)


def failed(record: dict[str, Any]) -> bool:
    """Whether a unit broke, or a check found something."""
    return "error_text" in record or any(not one["ok"] for one in record.get("findings", ()))


def first_checks(todo: Sequence[Unit], bench: Bench) -> list[str]:
    """Checks of the type that is timed: without them there are no timings."""
    return [unit.name for unit in todo if unit.name.startswith(f"check: {_kind(bench)}")]


def units(bench: Bench, checked: Bench, commit: str | None = None) -> list[Unit]:
    """Everything there is to do, the most important first; `checked` may use another backend."""
    found = [Unit("check", "machine", 0.0, lambda: about(bench, commit))]
    later: list[Unit] = []  # checks of types that are not timed
    for name, run in checks(checked).items():
        timed = name.startswith(_kind(checked))
        unit = Unit(
            "check" if timed else "types", f"check: {name}", CHECK_SECONDS, _check(checked, run)
        )
        (found if timed else later).append(unit)
    if bench.gpu:
        found.append(Unit("headline", "ceilings", 5.0, lambda: machine.ceilings(bench.device)))
    for stage, rows in stage_rows().items():
        rows = [row for row in rows if row.size in bench.sets]
        for row in rows[: TINY_ROWS if bench.tiny else None]:
            found += _of_row(bench, stage, row, {unit.name for unit in found})
        if stage == "sizes":
            found += later
    return found


def about(bench: Bench, commit: str | None = None) -> dict[str, Any]:
    """What the page says first."""
    return machine.about(bench.device, commit, dtype=_kind(bench).strip(), top_k=bench.top_k)


def _of_row(bench: Bench, stage: str, row: Row, known: set[str]) -> list[Unit]:
    """A row, with those it is compared with."""
    found = []
    for rival in rivals.RIVALS if stage != "patterns" else ():
        name = f"{rival}: {row.size}, {row.shape} heads"
        if name not in known:  # the same for all cells and patterns
            found.append(Unit(stage, name, full_seconds(row, bench), _rival(bench, rival, row)))
    seconds = ROW_SECONDS + bench.sets[row.size].tokens / 2e4
    found.append(Unit(stage, f"row: {row}", seconds, _row(bench, row)))
    if bench.compare is not None and row.pattern == "local":
        found.append(Unit(stage, f"official: {row}", seconds, _official(bench, row)))
    return found


def stage_rows() -> dict[str, list[Row]]:
    """The rows of each stage, in order; every row is in one stage."""
    others = [size for size in reversed(SIZES) if size != MAIN]
    main = [
        Row(MAIN, cell, shape, pattern)
        for shape in (WIDE, NARROW) for pattern in PATTERNS for cell in (4, 8)
    ]  # fmt: skip
    sizes = [
        Row(size, cell, shape, "local")
        for shape in (WIDE, NARROW) for size in others for cell in (4, 8)
    ]  # fmt: skip
    heads = [Row(size, cell, HALF, "local") for size in (MAIN, *others) for cell in (4, 8)]
    earlier = {*main, *sizes, *heads}
    patterns = [
        row
        for pattern in PATTERNS for shape in (WIDE, NARROW, HALF) for size in (MAIN, *others)
        for cell in (4, 8)
        if (row := Row(size, cell, shape, pattern)) not in earlier
    ]  # fmt: skip
    return {"headline": main, "sizes": sizes, "heads": heads, "patterns": patterns}


def full_seconds(row: Row, bench: Bench) -> float:
    """About how long a rival takes for a row's tokens."""
    flops = 4.0 * bench.sets[row.size].tokens ** 2 * row.shape.heads * row.shape.width
    return 5.0 + FULL_PASSES * flops / FULL_RATE


def work(
    todo: Sequence[Unit], records: Records, minutes: float, blocking: Sequence[str] = ()
) -> bool:
    """Do units until the minutes are spent; whether all are done.

    Units named in `blocking` must not fail: nothing is done after one that does.
    """
    waiting = [unit for unit in todo if not records.finished(unit)]
    begin = time.monotonic()
    for number, unit in enumerate(waiting):
        spent = time.monotonic() - begin
        left = sum(one.seconds for one in waiting[number:])
        if number and spent + unit.seconds > 60 * minutes:
            say(
                f"{spent:.0f} of {60 * minutes:.0f} s are spent: {len(waiting) - number} units, "
                f"about {left / 60:.0f} min, are left. Call again to go on."
            )
            return False
        say(f"[{number + 1}/{len(waiting)}] {unit.name} … (about {left / 60:.1f} min left in all)")
        start = time.monotonic()
        try:
            result = unit.do()
        except Exception as err:  # noqa: BLE001  one row must not cost the rest of a session
            result = {"error_text": f"{type(err).__name__}: {err}"[:2000]}
        result["seconds"] = time.monotonic() - start
        records.add(unit, result)
        if failed(records.done[unit.name]):
            say(f"    FAILED: {_reason(result)}")
            if "CUDA error" in result.get("error_text", ""):
                raise SystemExit("the GPU's state is lost; call again to go on in a new process")
            if unit.name in blocking:
                say("no timings of kernels that are wrong")
                return False
        else:
            say(f"    {_headline(result)}{result['seconds']:.0f} s")
    return True


def _reason(result: dict[str, Any]) -> str:
    if "error_text" in result:
        return str(result["error_text"])
    bad = [one for one in result["findings"] if not one["ok"]]
    return "; ".join(f"{one['what']}: {one['value']:.3g} > {one['limit']:.3g}" for one in bad)


def _headline(result: dict[str, Any]) -> str:
    if "refused" in result:
        return f"not measured ({result['refused']}), "
    if "forward_ms" in result:
        return f"{result['forward_ms']:.2f} ms forward, {result['backward_ms']:.2f} backward, "
    return ""


def _kind(bench: Bench) -> str:
    return str(bench.dtype).removeprefix("torch.") + " "


def _check(bench: Bench, run: Any) -> Do:
    return lambda: {"findings": [one.record() for one in run(bench)]}


def _rival(bench: Bench, name: str, row: Row) -> Do:
    return lambda: rivals.measure(bench, name, row.size, row.shape)


def _row(bench: Bench, row: Row) -> Do:
    return lambda: measure(bench, row)


def _official(bench: Bench, row: Row) -> Do:
    return lambda: official.measure(bench, row)

"""Did the trainings of a quickstart follow the curves that they should follow?

`docs/expected/` holds a band for each of the three (`benchmarks/expected_quickstart.py` makes them,
docs/training.md says how).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from threed_gen.evaluation.expected import WINDOWS, departures, load_band, run_curves
from threed_gen.quickstart.corridor import CONFIGS, TASKS

EXPECTED = CONFIGS.parent / "docs" / "expected"


def expected_file(task: str) -> Path:
    """The committed band of a task of the quickstart."""
    return EXPECTED / f"quickstart_{task}.json"


def outside(run_of: Callable[[str], Path]) -> list[str]:
    """One line for each window mean outside its band; runs may be unfinished."""
    return [line for task in TASKS for line in _compared(task, run_of(task))[1]]


def windows(task: str, run: Path) -> int:
    """How many of its windows a run has completed."""
    return _compared(task, run)[0]


def told(run_of: Callable[[str], Path]) -> str:
    """One line for the end of a quickstart."""
    missing = [str(path) for path in map(expected_file, TASKS) if not path.is_file()]
    if missing:  # no reason to end ten minutes of work with an error
        return f"Not compared with the expected curves: {', '.join(missing)} is not here."
    done, lines = [], list[str]()
    for task in TASKS:
        completed, departed = _compared(task, run_of(task))
        lines += departed
        done += [task] * (completed == WINDOWS)
    if lines:
        return (
            f"{len(lines)} window means lie outside the expected curves ({lines[0]}): "
            "docs/training.md says what to look at"
        )
    return f"Inside the expected curves of docs/expected: {', '.join(done) or 'none is finished'}."


def _compared(task: str, run: Path) -> tuple[int, list[str]]:
    """How many of its windows a run has completed, and what lies outside the band."""
    band = load_band(expected_file(task))
    curves = run_curves(run, band.steps)
    return len(curves.get("total", [])), [f"{task}: {line}" for line in departures(curves, band)]

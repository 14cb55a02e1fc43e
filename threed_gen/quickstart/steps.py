"""Steps that are done once: each looks first whether its result is already there and whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed_gen.console import say


@dataclass(frozen=True)
class Step:
    """One stretch of the corridor: what it is, whether it is done, how to do it."""

    title: str
    about: str  # how long it takes on two CPU cores
    is_done: Callable[[], bool]
    do: Callable[[], None]


def walk(steps: Sequence[Step]) -> int:
    """Do what is not done yet, in order; returns how many steps that were."""
    ran = 0
    for number, step in enumerate(steps, start=1):
        label = f"[{number}/{len(steps)}] {step.title}"
        if step.is_done():
            say(f"{label}: already there")
            continue
        ran += 1
        say(f"{label} … ({step.about})")
        start = time.monotonic()
        step.do()
        if not step.is_done():
            raise RuntimeError(f"{step.title}: ended without its result")
        say(f"{label}: done in {time.monotonic() - start:.0f} s")
    if ran == 0:
        say("everything was already there; nothing was redone")
    return ran


def is_newer(path: Path, than: Path) -> bool:
    """Whether both files are there and the first is not older."""
    return path.is_file() and than.is_file() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one when the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def free_name(path: Path) -> Path:
    """`path.1`, `path.2`, …: the first that does not exist."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")

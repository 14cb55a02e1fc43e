"""Time of a piece of work with its spread, what waits for the GPU in it, and who takes the time."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.ssa.coordinates import ROOT
from benchmarks.ssa.timing import clock

LEAST, MOST = 3, 20  # runs
PREFIX = "threed_gen::ssa_"  # of the operators of Spatial Sparse Attention
WAITING = "synchronizing CUDA operation"  # what PyTorch says where the host waits for the GPU

Work = Callable[[], object]


def spread_ms(work: Work, device: torch.device, seconds: float) -> dict[str, float]:
    """Median, least and most milliseconds of a run, of about so many seconds of warm runs."""
    once = _elapsed(work, device, 1)[0]
    runs = min(MOST, max(LEAST, int(1e3 * seconds / max(once, 1e-3))))
    times = _elapsed(work, device, runs)
    return {
        "median": statistics.median(times), "low": min(times), "high": max(times), "runs": runs,
    }  # fmt: skip


def _elapsed(work: Work, device: torch.device, runs: int) -> list[float]:
    """Milliseconds of each run, one behind the other without waiting in between."""
    if device.type != "cuda":
        times, now = [], clock()
        for _ in range(runs):
            start = now()
            work()
            times.append(1e3 * (now() - start))
        return times
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    torch.cuda.synchronize(device)
    for start_mark, end_mark in marks:
        start_mark.record()
        work()
        end_mark.record()
    torch.cuda.synchronize(device)
    return [start_mark.elapsed_time(end_mark) for start_mark, end_mark in marks]


def waits(work: Work, device: torch.device) -> dict[str, int] | None:
    """How often the host waits for the GPU, by line of Python; None where there is no GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.synchronize(device)
    return count_waits(caught)


def count_waits(caught: Iterable[warnings.WarningMessage]) -> dict[str, int]:
    """Warnings about waiting, by the place that they name."""
    found = (one for one in caught if WAITING in str(one.message))
    return dict(Counter(f"{_place(one.filename)}:{one.lineno}" for one in found))


def _place(file: str) -> str:
    path = Path(file)
    inside = path.is_relative_to(ROOT) and ".venv" not in path.parts
    return str(path.relative_to(ROOT)) if inside else "/".join(path.parts[-2:])


def operator_ms(work: Work, device: torch.device, prefix: str = PREFIX) -> dict[str, float]:
    """Milliseconds in each operator of that prefix, of the GPU where there is one."""
    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=kinds) as seen:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    found: Counter[str] = Counter()
    for event in seen.events() or []:
        host = event.device_type.name == "CPU"  # kernels hang on the operators that began them
        if host and event.name.startswith(prefix) and not _inside(event, prefix):
            time = event.device_time_total if device.type == "cuda" else event.cpu_time_total
            found[event.name.removeprefix(prefix)] += time / 1e3
    return {name: time for name, time in found.items() if time}


def _inside(event: Any, prefix: str) -> bool:
    """Within another operator of the prefix, whose time has it already."""
    above = event.cpu_parent
    while above is not None:
        if above.name.startswith(prefix):
            return True
        above = above.cpu_parent
    return False

"""How long work takes: medians of events on a GPU, of a clock on a CPU; and its peak memory.

Inputs rotate: between two runs on the same ones, several times the L2 cache has been through, so
that a small problem does not find its inputs there.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch

SECONDS = 1.0  # of runs for one median
LEAST, MOST = 3, 50  # runs
USUAL_CACHE = 60 * 2**20  # bytes, of an H200; taken where PyTorch does not know it
CACHES = 3  # times the L2 cache between runs on the same inputs

Work = Callable[[], object]


def rotation(bytes_of_one: int, device: torch.device) -> int:
    """Sets of inputs to go through in turn."""
    if device.type != "cuda":
        return 1
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", USUAL_CACHE)
    return 1 + CACHES * int(cache) // max(bytes_of_one, 1)


def median_ms(works: Sequence[Work], device: torch.device, seconds: float = SECONDS) -> float:
    """Median milliseconds of one run; the works do the same on different inputs, in turn."""
    if device.type == "cuda":
        for work in works:  # compiles, fills allocators; on a CPU a run can take a minute
            work()
    once = _elapsed(works[-1:], device, 1)
    runs = min(MOST, max(LEAST, int(1e3 * seconds / max(once[0], 1e-3))))
    if runs > LEAST:  # the first one paid for the way from the host
        once = []
    return statistics.median(once + _elapsed(works, device, runs - len(once)))


def clock() -> Callable[[], float]:
    """Seconds on a CPU: processor time where one thread works, which others disturb least."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _elapsed(works: Sequence[Work], device: torch.device, runs: int) -> list[float]:
    """Milliseconds of each run."""
    if device.type != "cuda":
        times, now = [], clock()
        for run in range(runs):
            start = now()
            works[run % len(works)]()
            times.append(1e3 * (now() - start))
        return times
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    torch.cuda.synchronize(device)
    for run, (start_mark, end_mark) in enumerate(marks):
        start_mark.record()
        works[run % len(works)]()
        end_mark.record()
    torch.cuda.synchronize(device)
    return [start_mark.elapsed_time(end_mark) for start_mark, end_mark in marks]


def peak_gib(work: Work, device: torch.device) -> float | None:
    """Most memory that tensors took while the work ran, all that live tensors hold included."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


class Stopwatch:
    """Milliseconds spent in functions of a module, by name, while it watches."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: dict[str, list[Callable[[], float]]] = defaultdict(list)

    @contextmanager
    def watching(self, module: ModuleType, names: Sequence[str]) -> Iterator[None]:
        """Time every call of these functions that goes through the module; skips unknown names."""
        with ExitStack() as stack:
            for name in names:
                if hasattr(module, name):
                    timed = self._timed(name, getattr(module, name))
                    stack.enter_context(mock.patch.object(module, name, timed))
            yield

    def milliseconds(self) -> dict[str, float]:
        """Median of each function's calls."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return {
            name: statistics.median(span() for span in spans) for name, spans in self._spans.items()
        }

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._device.type != "cuda":
                now = clock()
                start = now()
                result = function(*args, **kwargs)
                spent = 1e3 * (now() - start)
                self._spans[name].append(lambda: spent)
                return result
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            result = function(*args, **kwargs)
            marks[1].record()
            self._spans[name].append(lambda: float(marks[0].elapsed_time(marks[1])))
            return result

        return call

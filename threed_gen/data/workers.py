"""Runs one function over many tasks in child processes, and survives children that die.

Children are started fresh (spawn), compute on one thread each, and end by themselves when the
parent is gone. When a child dies (a crash in native code, out of memory), the tasks that were
under way are run again one at a time, so that the one to blame is found and named.

This module imports neither numpy nor anything that does: a child sets its thread counts here,
before the libraries that read them are loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "IGL_NUM_THREADS",
)


def run_tasks(
    call: Callable[[T], R], tasks: Iterable[T], workers: int, died: Callable[[T], R]
) -> Iterator[R]:
    """Yield `call(task)` of every task, in the order of completion.

    `died(task)` stands in for the result of a task that takes its process down. An exception of
    `call` ends the run. With 0 workers everything happens in this process.
    """
    if workers == 0:
        for task in tasks:
            yield call(task)
        return
    waiting = deque(tasks)
    while waiting:
        suspects: list[T] = []
        yield from _until_a_child_dies(call, waiting, workers, suspects)
        while suspects:
            alone: list[T] = []
            yield from _until_a_child_dies(call, deque(suspects), 1, alone, window=1)
            done = len(suspects) - len(alone)
            suspects = suspects[done:]
            if suspects:
                yield died(suspects.pop(0))


def _until_a_child_dies(
    call: Callable[[T], R],
    waiting: deque[T],
    workers: int,
    lost: list[T],
    window: int | None = None,
) -> Iterator[R]:
    """Work through `waiting`; if a child dies, `lost` receives the tasks without a result."""
    window = window or 2 * workers
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_child,
    )
    running: dict[Future[R], T] = {}
    try:
        while waiting or running:
            while waiting and len(running) < window:
                running[pool.submit(call, waiting[0])] = waiting[0]
                waiting.popleft()
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                result = future.result()
                del running[future]
                yield result
    except BrokenProcessPool:
        lost.extend(running.values())
        if window == 1:
            lost.extend(waiting)
    finally:
        children = list(getattr(pool, "_processes", None) or {})
        pool.shutdown(wait=False, cancel_futures=True)
        if waiting or running:  # leaving early: an error, Ctrl-C, or a dead child
            for child in children:
                _end(child)


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGTERM)
    except ProcessLookupError:
        return


def _start_child() -> None:
    for name in THREADS:
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True)
        watch.start()


def _leave_with(parent: int) -> None:
    wait_for([parent])
    os._exit(1)  # killed parents cannot tell their children to stop

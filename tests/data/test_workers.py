"""Child processes: one thread each, deaths traced to their task, errors passed on."""

from __future__ import annotations

import os
import signal
import time

import pytest

from threed_gen.data.workers import THREADS, run_tasks
from threed_gen.errors import DiskError


def _work(task: int) -> tuple[int, str, int]:
    if task in (3, 4):
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == 99:
        raise DiskError("full")
    return task, ",".join(os.environ[name] for name in THREADS), os.getpid()


def _died(task: int) -> tuple[int, str, int]:
    return -task, "", 0


def test_the_dead_are_named_and_the_others_finish() -> None:
    results = list(run_tasks(_work, range(9), 2, _died))
    assert sorted(task for task, _, _ in results) == [-4, -3, 0, 1, 2, 5, 6, 7, 8]
    assert {threads for task, threads, _ in results if task >= 0} == {",".join("1" * len(THREADS))}
    assert os.getpid() not in {pid for _, _, pid in results}


def test_an_error_ends_the_run_with_its_type() -> None:
    with pytest.raises(DiskError, match="full"):
        list(run_tasks(_work, [1, 99, 2, 5, 6, 7, 8], 2, _died))


def test_nothing_to_do() -> None:
    assert list(run_tasks(_work, [], 2, _died)) == []

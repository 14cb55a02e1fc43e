"""Tasks for the tests of child processes: work, and every kind of misdeed. Quick to import."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from threed_gen.data.child import THREADS
from threed_gen.data.usage import Meter
from threed_gen.data.workers import Lost
from threed_gen.errors import DiskError

if "BREAK_IMPORT" in os.environ:
    raise RuntimeError("libsomething.so: cannot be loaded")

_left_behind: list[bytearray] = []


class OddError(Exception):
    """Cannot be pickled back: its arguments are not those it was made with."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def work(task: tuple[str, Any]) -> Any:
    deed, value = task
    if deed == "raise":
        raise value
    if deed == "odd":
        raise OddError(1, 2)
    if deed == "disk":
        raise DiskError("full")
    if deed == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "abort":
        os.abort()
    if deed == "exit":
        os._exit(3)
    if deed == "hang":
        time.sleep(1000)
    if deed == "native":  # computes where no signal handler and no thread of Python gets a turn
        ctypes.PyDLL(None).sleep(1000)
    if deed == "explode":
        return len(bytearray(10**12))
    if deed == "swell":
        pieces = []
        while True:
            pieces.append(bytearray(10_000_000))
            time.sleep(0.001)
    if deed == "sleep":
        time.sleep(value)
    if deed == "note":
        with Path(value).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if deed == "threads":
        return [os.environ[name] for name in THREADS]
    if deed == "leave":
        _left_behind.append(bytearray(value))
    if deed == "peak":
        meter = Meter()
        block = bytearray(value)
        del block
        return meter.peak_mb
    if deed == "large":
        return bytes(value)
    if deed == "length":
        return len(value)
    if deed == "print":
        for _ in range(value):
            os.write(2, b"noise " * 1000)
    return os.getpid()


def lost(task: tuple[str, Any], why: Lost) -> Any:
    return task[0], why

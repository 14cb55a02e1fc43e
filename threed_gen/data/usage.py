"""What a process takes: its memory now and at its peak, and seconds by the clock on the wall.

Linux tells both in /proc, where a process may also start its own peak anew. Elsewhere psutil tells
the memory of the moment, and the peak is that of the process's whole life.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

MB = 1_000_000
_PAGE = resource.getpagesize()
_OWN = Path("/proc/self")


class Meter:
    """Seconds and peak memory since `Meter()` was made, of this process."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        reset_peak()

    @property
    def seconds(self) -> float:
        """By the clock on the wall, to the millisecond."""
        return round(time.monotonic() - self._start, 3)

    @property
    def peak_mb(self) -> float:
        """The most memory that was resident at any moment, in MB."""
        return peak_mb()


def resident_mb(pid: int | None = None) -> float:
    """Resident memory of a process (None: this one) in MB; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid or 'self'}/statm").read_text()
        return round(int(text.split()[1]) * _PAGE / MB, 1)
    except FileNotFoundError:
        return 0.0 if _OWN.exists() else _resident_by_psutil(pid)
    except (OSError, IndexError, ValueError):  # it ended while we read
        return 0.0


def peak_mb(pid: int | None = None) -> float:
    """The most memory that was resident since the last `reset_peak`, in MB; 0 if not known."""
    found = _status("VmHWM", pid)
    if found is not None:
        return found
    if pid is not None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB, 1)


def private_mb() -> float:
    """Memory that this process has asked for, used or not, in MB; 0 if not known."""
    return _status("VmData", None) or 0.0


def reset_peak() -> None:
    """Start this process's peak anew, where the system has a way to."""
    try:
        handle = os.open(_OWN / "clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(handle, b"5")
    except OSError:  # a container may show the file and refuse the writing
        return
    finally:
        os.close(handle)


def _status(key: str, pid: int | None) -> float | None:
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(key + ":"):
            return round(int(line.split()[1]) * 1024 / MB, 1)
    return None


def _resident_by_psutil(pid: int | None) -> float:
    import psutil

    try:
        return round(float(psutil.Process(pid).memory_info().rss) / MB, 1)
    except psutil.Error:
        return 0.0

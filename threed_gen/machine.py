"""What this process may use of the machine it runs on."""

from __future__ import annotations

import os


def cores() -> int:
    """How many CPU cores this process may use; in a container or a job fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

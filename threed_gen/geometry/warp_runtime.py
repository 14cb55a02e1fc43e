"""Starts warp quietly, once, when the first kernel is about to run.

Importing warp prints nothing; its first use prints a banner, compile times and, on machines
without a GPU, a warning. A person preparing a thousand meshes wants none of that.
"""

from __future__ import annotations

import os
import sys
from functools import cache

import warp as wp


@cache
def _start() -> None:
    wp.config.log_level = wp.LOG_ERROR
    # The missing-driver warning comes from native code and knows no switch, only the descriptor.
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def warp_device(device: str | None = None) -> str:
    """The device's name for launches: `cpu` unless another one is asked for."""
    _start()
    return device or "cpu"

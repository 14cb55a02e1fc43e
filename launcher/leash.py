"""Become a program that gets SIGTERM when its parent dies, however that comes about.

    python launcher/leash.py PARENT deepspeed --hostfile hosts …

A launcher whose supervisor was killed outright would train on, with nobody who hears or ends it.
On SIGTERM `deepspeed`, `mpirun` and `torchrun` end their ranks. Linux only; elsewhere the program
is started as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>; it outlasts exec


def main(arguments: list[str]) -> int:
    """Returns only when the program cannot be started."""
    parent, words = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was faster
            return 128 + signal.SIGTERM
    try:
        os.execvp(words[0], words)  # noqa: S606 - no shell is wanted
    except OSError as err:
        sys.stderr.write(f"{words[0]}: {err.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

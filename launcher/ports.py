"""Ports on which rank 0 listens: the same on every rank, another one for every attempt.

All lie in 15000 … 29999, below the range from which Linux takes ports for outgoing connections
(32768 and up), so that no connection of somebody else holds one by accident.
"""

from __future__ import annotations

import hashlib
import socket

FIRST_PORT, PORTS = 15_000, 15_000
SLOTS = 16  # ports of one Slurm job: 8 for the steps of one start, 8 for those after a requeue


def job_port(job: int, step: int, restarts: int) -> int:
    """The port of a step of a Slurm job.

    Jobs whose numbers are less than 937 apart never share a port, so two of them can run on one
    node. Eight steps in a row differ, and so do all steps before and after a requeue.
    """
    slot = restarts % 2 * (SLOTS // 2) + step % (SLOTS // 2)
    return FIRST_PORT + job % (PORTS // SLOTS) * SLOTS + slot


def key_port(key: str, attempt: int = 0) -> int:
    """A port for anything that has a name; consecutive attempts get consecutive ports."""
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return FIRST_PORT + (int.from_bytes(digest, "big") + attempt) % PORTS


def free_port(key: str, attempt: int = 0) -> int:
    """The first port from `key_port` on that nobody on this machine listens on.

    Raises:
        OSError: a thousand in a row are taken.
    """
    for further in range(1000):
        port = key_port(key, attempt + further)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {key_port(key, attempt)} on")

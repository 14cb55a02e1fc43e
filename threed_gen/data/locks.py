"""Locks between processes: flock on a file that says who holds it.

A lock goes with its process, whatever ends it. Files stay where they are. On network file systems
flock works between nodes where the mount supports it (NFS from version 4 or with its lock service,
Lustre with `flock`, GPFS, CephFS); where it does not, that is an error and not a silent risk.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from threed_gen.errors import UserError, disk_errors

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
PATIENCE = 0.5  # seconds to try: somebody may only have looked whether the lock is taken
PAUSE = 0.02


class BusyError(UserError):
    """Somebody else holds the lock; `note` is what they wrote into it."""

    def __init__(self, message: str, note: dict[str, Any]) -> None:
        super().__init__(message)
        self.note = note


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file of a lock, made if need be."""
    with disk_errors(path, "a lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        yield file


@contextmanager
def locked(path: Path, note: Mapping[str, Any], wait: bool = False) -> Iterator[None]:
    """Hold the lock `path`, alone; BusyError if it is taken, unless we are to wait."""
    with opened(path) as file:
        start = time.monotonic()
        while not take(file):
            if not wait and time.monotonic() - start > PATIENCE:
                raise BusyError(f"{path}: held by {holder(read_note(path))}", read_note(path))
            time.sleep(PAUSE)
        sign(file, note)
        yield


def take(file: BinaryIO, shared: bool = False) -> bool:
    """Take the lock, or turn it into the other kind; False if somebody is in the way."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if err.errno in _UNSUPPORTED:
            raise UserError(
                f"{file.name}: this file system has no locks ({err.strerror}); prepare on a local "
                "disk, or have it mounted with flock"
            ) from err
        raise
    return True


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now. Changes nothing."""
    try:
        with path.open("rb") as file:
            return not take(file, shared=True)
    except OSError:  # there is none, or we may not look
        return False


def sign(file: BinaryIO, note: Mapping[str, Any]) -> None:
    """Write into a lock that we hold who we are, for others' error messages."""
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **note})
    with disk_errors(file.name, "a lock"):
        file.seek(0)
        file.truncate()
        file.write(text.encode() + b"\n")
        file.flush()


def read_note(path: Path) -> dict[str, Any]:
    """What the holder (or the last one) wrote; {} if that cannot be read."""
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def holder(note: Mapping[str, Any]) -> str:
    """Who wrote a note, in words."""
    if "host" not in note:
        return "another process"
    return f"process {note.get('pid')} on {note['host']}"

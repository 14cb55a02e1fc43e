"""Errors a person can cure, and the exit codes that go with them.

Everything that a user can put right (a missing folder, a misspelt key, a corrupt shard, a full
disk) is raised as a `UserError`: one line that names the file or key and the cure. The command
line prints that line without a traceback and leaves with the error's code. Any other exception is
a defect of this project and keeps its traceback (exit code 1).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_OK = 0
EXIT_BUG = 1  # an exception that nobody foresaw; a traceback is shown
EXIT_USER = 2  # input, configuration or environment that the user can cure
EXIT_DISK = 74  # the disk failed or is full (EX_IOERR of sysexits.h)
EXIT_ORPHAN = 75  # a rank ended itself because its launcher is gone (EX_TEMPFAIL)
EXIT_INTERRUPTED = 130  # Ctrl-C (128 + SIGINT)
EXIT_DIVERGED = 76  # training produced a NaN or infinity and stopped before saving it


class UserError(Exception):
    """Something the user can cure. The message is one line: what, where, and the cure."""

    exit_code = EXIT_USER
    shared = False  # whether every rank knows of it, so that one of them may speak for all


class DiskError(UserError):
    """A write failed: full disk, quota, read-only or broken file system."""

    exit_code = EXIT_DISK


class DivergedError(UserError):
    """The loss or a gradient stopped being finite."""

    exit_code = EXIT_DIVERGED


_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


@contextmanager
def disk_errors(path: Path | str, what: str) -> Iterator[None]:
    """Turn the operating system's disk failures inside the block into one clear `DiskError`."""
    try:
        yield
    except OSError as err:
        if err.errno in _DISK_ERRNOS:
            raise DiskError(
                f"{path}: could not write {what}: {err.strerror}. "
                "Free some space (or fix the disk) and run the same command again."
            ) from err
        raise

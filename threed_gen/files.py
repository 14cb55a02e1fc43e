"""Writing a file so that a crash at any moment leaves the old one, the new one, or none.

Bytes go to a temporary name beside the target, are flushed to the disk, and the file then takes
its final name in one step. A reader never sees half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from threed_gen.errors import disk_errors

TEMPORARY = ".tmp"  # suffix of files in the making; leftovers of a crash are safe to delete


@contextmanager
def atomic_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open a temporary file for writing; it becomes `path` when the block ends without an error.

    `what` names the content in the `DiskError` that a full or broken disk raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with disk_errors(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # a full disk needs the room back at once
            raise
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes, what: str) -> None:
    """Make `path` hold exactly `content`, or leave it as it was."""
    with atomic_file(path, what) as file:
        file.write(content)


def sync_file(path: Path) -> None:
    """Force a file's content onto the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON; numbers that JSON cannot hold are an error."""
    write_atomically(
        path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), "the file"
    )


def remove_temporaries(folder: Path) -> None:
    """Delete what an earlier, killed process left half-written in `folder`."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """sha256 of a whole file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

"""The staging folder: whole copies of shards on a disk of the node, shared by all runs there.

A copy is named for its shard's sha256, so no run can take another's. It is written under a
temporary name at its full size (a full disk shows before the first byte), checked, flushed and
renamed; its writer holds a lock on the temporary file, so whoever finds one unlocked knows that its
writer was killed, and deletes it. Readers hold a shared lock on a copy while they read.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from threed_gen.data.locks import locked, take
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.shard import ShardFile, checked, read_range
from threed_gen.data.staging.eviction import Copy, make_room
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import TEMPORARY, sync_directory

Fill = Callable[[BinaryIO], str]  # appends the whole shard to a file and returns its sha256


class BadCopyError(UserError):
    """What was copied is not the shard that the index describes."""


class StagingFolder:
    """Copies below `root`, of at most `limit` bytes together."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self.folder = root / "shards"

    def path(self, shard: ShardFile) -> Path:
        """Where the copy of a shard lies, once it is whole."""
        stem = Path(shard.file).stem
        return self.folder / f"{stem}-{shard.sha256[:24]}.tar"

    def has(self, shard: ShardFile) -> bool:
        """Whether there is a whole copy."""
        try:
            return self.path(shard).stat().st_size == shard.size
        except OSError:
            return False

    def read(self, shard: ShardFile, offset: int, size: int, sha256: str) -> bytes | None:
        """A payload from the copy; None if there is no copy.

        CorruptSampleError if the copy is damaged: `drop` it and read elsewhere.
        """
        try:
            handle = os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # a copy in use is not evicted
            return checked(read_range(handle, offset, size), size, sha256)
        except OSError as err:  # the local disk fails
            raise CorruptSampleError(f"{self.path(shard)}: {err.strerror}") from err
        finally:
            os.close(handle)

    def drop(self, shard: ShardFile) -> None:
        """Delete a damaged copy."""
        self.path(shard).unlink(missing_ok=True)

    def touch(self, shards: list[ShardFile]) -> None:
        """Note that these are needed now: the others are evicted first."""
        for shard in shards:
            with suppress(FileNotFoundError):  # not staged, or evicted this moment
                os.utime(self.path(shard))

    def add(self, shard: ShardFile, fill: Fill, wanted: set[str]) -> int:
        """Make a copy; the number of others that were evicted for it.

        Args:
            shard: what to copy.
            fill: writes it.
            wanted: names of copies (`path(shard).name`) that somebody still needs.

        Raises:
            NoRoomError: the limit leaves no room beside those that are wanted.
            BadCopyError: what `fill` wrote is not the shard; UserError, what `fill` raises.
            DiskError: the local disk is full or broken.
        """
        path = self.path(shard)
        with disk_errors(path, "a staged shard"):
            with self._reserved(path, shard.size, wanted) as (file, evicted):
                found = fill(file)
                size = file.tell()
                if size != shard.size:
                    raise BadCopyError(f"{shard.file}: has {size} bytes, not {shard.size}")
                if found != shard.sha256:
                    raise BadCopyError(f"{shard.file}: its bytes are not those of the index")
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            sync_directory(self.folder)
        return evicted

    def copies(self) -> list[Copy]:
        """Everything that takes room, also what is being written."""
        found = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # renamed or evicted this moment
                status = path.stat()
                found.append(Copy(path.name, status.st_size, status.st_mtime))
        return found

    def remove_leftovers(self) -> int:
        """Delete what killed processes left half-written; how many files."""
        removed = 0
        for path in self.folder.glob(f".*{TEMPORARY}"):
            with suppress(FileNotFoundError), path.open("r+b") as file:
                if take(file):
                    path.unlink()
                    removed += 1
        return removed

    @contextmanager
    def _reserved(self, path: Path, size: int, wanted: set[str]) -> Iterator[tuple[BinaryIO, int]]:
        """A locked temporary file that already takes the room of the copy, and what was evicted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        with ExitStack() as held:
            # Two who make room at once would count the same bytes.
            with locked(self.root / "room.lock", {}, wait=True):
                self.remove_leftovers()
                evicted = make_room(self.folder, self.copies(), size, self.limit, wanted)
                file = held.enter_context(temporary.open("w+b"))
                held.callback(temporary.unlink, missing_ok=True)  # gone already once renamed
                take(file)
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
            yield file, evicted

"""One thread per node and data set that copies the shards of the coming steps ahead of use.

Every rank says what it needs next (`want`); the one whose thread holds the data set's lock in the
staging folder makes the copies for all of them. When it ends, another takes over. Nothing waits for
a copy: a reader that comes too early, or a disk that is full, means reading where the shard lies.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from threed_gen.console import say
from threed_gen.data.locks import sign, take
from threed_gen.data.shard import ShardFile
from threed_gen.data.staging.cache import StagingFolder
from threed_gen.data.staging.eviction import NoRoomError
from threed_gen.data.staging.wishes import OwnWish, wishes
from threed_gen.errors import UserError

POLL = 0.25  # seconds between looks at what other ranks need
WAIT_FOR_ROOM = 2.0  # seconds until a shard that had none is looked at again
REST = 30.0  # seconds that a shard is left alone after it could not be copied

Copier = Callable[[ShardFile, BinaryIO, Callable[[], None]], str]


class _StoppedError(Exception):
    """The thread is to end."""


class Stager:
    """This rank's part in staging: its wish, and a thread that stands ready to copy for all.

    `counts`: staged (shards), staged_bytes, evicted, failed, no_room. Only the copying rank's
    grow.
    """

    def __init__(
        self, folder: StagingFolder, shards: list[ShardFile], origin: str, copy: Copier
    ) -> None:
        """
        Args:
            folder: where the copies go.
            shards: all of the data set.
            origin: names the data set, by its content: runs with the same one share the work.
            copy: writes a shard to a file and returns its sha256; calls its third argument now
                and then, which may raise.
        """
        self.folder, self._copy = folder, copy
        self.counts: Counter[str] = Counter()
        self._by_name = {folder.path(shard).name: shard for shard in shards}
        self._copy_of = {shard.file: folder.path(shard).name for shard in shards}
        self.origin = hashlib.sha256(origin.encode()).hexdigest()[:16]
        self._own = OwnWish(folder.root, self.origin)
        self._last: list[str] = []
        self._resting: dict[str, float] = {}  # name of a copy → when to try again
        self._told: set[str] = set()
        self._news, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="stager", daemon=True)
        self._thread.start()

    def want(self, files: list[str]) -> None:
        """These shards (their file names in the index) are needed next, in this order."""
        if files != self._last:
            self._last = list(files)
            try:
                self._own.write([self._copy_of[file] for file in files])
            except OSError as err:  # a full disk is no reason to stop
                self._trouble("failed", f"{self._own.path}: {err.strerror}; free some space")
            self._news.set()

    def close(self) -> None:
        """End the thread and want nothing; a copy that is half made is given up."""
        self._end.set()
        self._news.set()
        self._thread.join()
        self._own.close()

    def _run(self) -> None:
        lock = self.folder.root / f"stager-{self.origin}.lock"
        try:
            with lock.open("a+b") as file:
                while not take(file):
                    if self._end.wait(POLL):
                        return
                sign(file, {})
                self.counts["elected"] = 1
                while not self._end.is_set():
                    if not self._stage_next():
                        self._news.wait(POLL)
                        self._news.clear()
        except _StoppedError:
            return
        except (OSError, UserError) as err:  # the folder itself is gone or broken
            self._trouble("failed", f"{self.folder.root}: staging has ended: {err}")

    def _stage_next(self) -> bool:
        """Copy the first shard that is needed and not there; False if there is none."""
        told = wishes(self.folder.root)
        wanted = {name for wish in told for name in wish.copies}
        # First what any rank needs first.
        ours = [wish.copies for wish in told if wish.origin == self.origin]
        names = dict.fromkeys(name for row in zip_longest(*ours) for name in row if name)
        shards = [self._by_name[name] for name in names if name in self._by_name]
        self.folder.touch(shards)
        now = time.monotonic()
        for shard in shards:
            name = self.folder.path(shard).name
            if not self.folder.has(shard) and self._resting.get(name, 0.0) <= now:
                return self._stage(shard, name, wanted)
        return False

    def _stage(self, shard: ShardFile, name: str, wanted: set[str]) -> bool:
        try:
            evicted = self.folder.add(
                shard, lambda file: self._copy(shard, file, self._stop_if_asked), wanted
            )
        except NoRoomError as err:
            self._resting[name] = time.monotonic() + WAIT_FOR_ROOM
            self._trouble("no_room", str(err))
            return False  # nor would a later one find room
        except (OSError, UserError) as err:
            self._resting[name] = time.monotonic() + REST
            self._trouble("failed", f"not staged, read where it lies: {err}")
            return True
        self.counts["staged"] += 1
        self.counts["staged_bytes"] += shard.size
        self.counts["evicted"] += evicted
        return True

    def _stop_if_asked(self) -> None:
        if self._end.is_set():
            raise _StoppedError

    def _trouble(self, kind: str, line: str) -> None:
        """Count, and say the first of a kind."""
        self.counts[kind] += 1
        if kind not in self._told:
            self._told.add(kind)
            say(f"staging: {line}")


def copy_file(path: Path, size: int, file: BinaryIO, between: Callable[[], None]) -> str:
    """Append a local file to `file`; its sha256. At most `size` + 1 bytes are read."""
    digest, left = hashlib.sha256(), size + 1
    with path.open("rb") as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while left > 0 and (piece := source.read(min(left, 1 << 24))):
            between()
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()

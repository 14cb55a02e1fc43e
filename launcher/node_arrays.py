"""Arrays that the processes of one node compute once and then map from its local disk.

The first process that asks for an array writes it, under a lock, into a folder that belongs to the
run; all others map the file and read what they need of it, so their own memory stays small. The
folder has a random name in the place for temporary files. Its owner, one process of the node, holds
a lock on it for as long as it lives: what a killed run left behind is removed by the next start.

Where the disk is full or not shared, each process keeps the arrays in memory, and one says so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]

PREFIX = "threed-gen-plan-"
UNUSABLE = ".unusable"  # says to the others that a process could not write here
YOUNG_SECONDS = 60.0  # a folder may be so old before its owner has locked it


class NodeArrays:
    """Named groups of arrays, in the files of `folder`, or in this process alone (None).

    May be pickled: a process started by another one maps the same files.
    """

    def __init__(
        self, folder: Path | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        """`tell` gets the line about a disk that cannot be used."""
        self._folder, self._tell = folder, tell
        self._held: dict[str, Arrays] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    @property
    def shared(self) -> bool:
        """Whether other processes of the node map the same files."""
        return self._folder is not None

    def get(self, name: str, make: Callable[[], Mapping[str, Array]]) -> Arrays:
        """The arrays of this name; `make` is called where the node does not have them yet."""
        if name not in self._held:
            self._held[name] = self._shared_or_own(name, make)
        return self._held[name]

    def _shared_or_own(self, name: str, make: Callable[[], Mapping[str, Array]]) -> Arrays:
        made: Arrays = {}
        folder = self._folder
        if folder is not None:
            try:
                with _locked(folder):
                    if not (folder / name).is_dir() and not (folder / UNUSABLE).exists():
                        made = dict(make())
                        _write(folder, name, made)
                    if (folder / name).is_dir():
                        return _mapped(folder / name)
                self._folder = None  # another process could not write here, and has said so
            except OSError as err:
                self._give_up(folder, err)
        return made or dict(make())

    def known(self, name: str) -> Arrays | None:
        """The arrays of this name, if the node has them already."""
        if name not in self._held and self._folder is not None:
            with suppress(OSError), _locked(self._folder):  # whoever needs them calls `get`
                if (self._folder / name).is_dir():
                    self._held[name] = _mapped(self._folder / name)
        return self._held.get(name)

    def drop(self, name: str) -> None:
        """Forget arrays; a process that has them mapped keeps them."""
        self._held.pop(name, None)
        if self._folder is not None:
            with suppress(OSError), _locked(self._folder):  # left over: goes with the folder
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _give_up(self, folder: Path, err: OSError) -> None:
        self._folder = None
        with suppress(OSError):  # then the others find out, and say it, by themselves
            (folder / UNUSABLE).touch()
        if self._tell is not None:
            self._tell(
                f"{folder}: cannot be used ({err.strerror or err}); the order of the data stays in "
                "each process's memory. To share it on the node, free space there or set TMPDIR"
            )


@contextmanager
def own_folder(root: Path | None = None) -> Iterator[Path]:
    """A new folder for the arrays of one run on one node; removed at the end.

    Args:
        root: where; None is the place for temporary files.

    Raises:
        OSError: it cannot be made.
    """
    where = Path(tempfile.gettempdir()) if root is None else root
    remove_leftovers(where)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    handle = _lock_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_leftovers(root: Path) -> None:
    """Delete the folders whose owner is gone; those of other users stay."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # not ours, or just removed by somebody else
            if folder.stat().st_uid != os.getuid():
                continue
            if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue
            handle = _lock_folder(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _write(folder: Path, name: str, arrays: Mapping[str, Array]) -> None:
    """All files of a name, or none of them."""
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for key, array in arrays.items():
            np.save(temporary / f"{key}.npy", array, allow_pickle=False)
        temporary.rename(folder / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room back at once
        raise


def _mapped(folder: Path) -> Arrays:
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}


def _lock_folder(folder: Path) -> int | None:
    """Hold the owner's lock on a folder; None: somebody else holds it, or it cannot be locked."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the processes that use this folder."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

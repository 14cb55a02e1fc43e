"""One copy of an index per node: who makes it, where it lies, and what is done where it cannot lie.

The first process to open an index converts it under a lock; the others wait and map the result. A
copy is named for the index's first line (which has the sha256 of all the rest), its size and its
time of change. Indexes of a few megabytes are not worth a file: each process reads them itself.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from threed_gen.console import say
from threed_gen.data.column_index import LAYOUT, SPARED, convert
from threed_gen.data.columns import Array, Columns, ColumnWriter, StaleColumnsError, open_columns
from threed_gen.data.locks import locked
from threed_gen.errors import DiskError
from threed_gen.files import TEMPORARY

SMALL = 4 << 20  # bytes of an index that every process may hold
UNUSED = 30 * 86400  # seconds after which a copy that nobody opened is deleted
SUFFIX = ".columns"
_told: set[str] = set()


def own_folder(base: Path | str) -> Path:
    """Where this user's files lie below a folder that users may share."""
    return Path(base) / f"threed-gen-{os.getuid()}"


def node_folder(given: str | None) -> Path | None:
    """A folder of ours on this node: the given one, or one below the temporary folder.

    None, said once, where there is none to write to, or where it belongs to another user.
    """
    try:
        folder = own_folder(given or tempfile.gettempdir())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(13, "it belongs to another user")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as err:
        where = given or err.filename or "the temporary folder"
        _say_once(
            f"{where}: cannot be written to ({err.strerror}): every process reads the data's index "
            "into its own memory; set data.stage.dir to a folder on a local disk"
        )
        return None


def open_index(index: Path, name: str, folder: Callable[[], Path | None]) -> Columns:
    """The columns of an index.jsonl; errors call it `name`.

    Args:
        index: the file.
        name: what errors call it.
        folder: where the node's copies lie (None: nowhere); asked only for a large index.

    Raises:
        DamagedIndexError, UserError: as `convert`.
    """
    found = index.stat()
    where = folder() if found.st_size > SMALL else None
    if where is None:
        return _in_memory(index, name)
    with index.open("rb") as file:
        text = f"{LAYOUT} {found.st_size} {found.st_mtime_ns} ".encode() + file.readline()
    key = hashlib.sha256(text).hexdigest()
    path = where / "index" / f"{key[:32]}{SUFFIX}"

    def write() -> None:
        say(f"{name}: reading {found.st_size / 1e6:,.0f} MB of index, once on this node")
        with index.open("rb") as file, ColumnWriter(path.parent) as writer:
            convert(file, name, writer)
            writer.save(path, key)

    try:
        _remove_unused(path.parent)
        return _made_once(path, key, write)
    except (OSError, DiskError) as err:
        _say_once(f"{path.parent}: {err}: every process reads the index into its own memory")
        return _in_memory(index, name)


def derived(columns: Columns, name: str, make: Callable[[], Mapping[str, Array]]) -> Columns:
    """Columns that follow from others, made once per node as well. `name` says all of how."""
    if columns.path is None:
        return Columns(make())
    key = f"{columns.key} {name}"
    short = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = columns.path.with_name(f"{columns.path.name.removesuffix(SUFFIX)}-{short}{SUFFIX}")

    def write() -> None:
        with ColumnWriter(path.parent) as writer:
            for column, values in make().items():
                writer.write(column, values)
            writer.save(path, key)

    try:
        return _made_once(path, key, write)
    except (OSError, DiskError) as err:
        _say_once(f"{path.parent}: {err}: every process holds its own list of samples")
        return Columns(make())


def _made_once(path: Path, key: str, write: Callable[[], None]) -> Columns:
    """The columns at `path`, written by one process of the node if they are not there or damaged.

    Raises OSError or DiskError where they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _opened(path, key)
    except StaleColumnsError:
        pass  # made below: whoever comes first, and the others wait
    with locked(path.with_suffix(".lock"), {}, wait=True):
        try:
            return _opened(path, key)
        except StaleColumnsError as err:
            if path.exists():
                say(f"{err}: made anew")
        for leftover in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
            leftover.unlink()  # of a killed process: we hold its lock
        write()
    try:
        return _opened(path, key)
    except StaleColumnsError as err:
        raise OSError(5, f"{err}, just after it was written") from err


def _opened(path: Path, key: str) -> Columns:
    columns = open_columns(path, key, SPARED)
    os.utime(path)  # the time of last use
    return columns


def _in_memory(index: Path, name: str) -> Columns:
    with index.open("rb") as file, ColumnWriter(None) as writer:
        convert(file, name, writer)
        return writer.in_memory()


def _remove_unused(folder: Path) -> None:
    """Delete copies that nobody has opened for a month; whoever maps one keeps it."""
    oldest = time.time() - UNUSED
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was faster


def _say_once(line: str) -> None:
    """Once per node: by its first rank, and not by that one's workers."""
    first = os.environ.get("LOCAL_RANK", "0") == "0" and multiprocessing.parent_process() is None
    if first and line not in _told:
        _told.add(line)
        say(line)

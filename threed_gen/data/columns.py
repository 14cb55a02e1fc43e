"""Columns: plain arrays in one file that every process of a node maps and none has to hold.

A file is magic, a JSON header under its own sha256, and the arrays behind it, each with a CRC-32
and on a 64-byte boundary. It appears whole or not at all; opening checks what can be torn or stale:
the header, the size, whose columns they are, and (unless told otherwise) the content. The same
writer keeps small tables in memory, so there is one way to make and to read them.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError
from threed_gen.files import atomic_file

MAGIC = b"3dg columns 001\n"  # 16 bytes; then the header's length (8) and sha256 (32)
HEAD = len(MAGIC) + 8 + 32
ALIGN = 64
PIECE = 1 << 20  # bytes that are read at once when content is checked

Array = NDArray[Any]


class StaleColumnsError(Exception):
    """The file is not there, not whole, or belongs to something else: make it anew."""


class Columns(Mapping[str, Array]):
    """Arrays by name, read-only. In other processes a file is mapped again, never copied."""

    def __init__(
        self, arrays: Mapping[str, Array], path: Path | None = None, key: str = ""
    ) -> None:
        self.path, self.key = path, key  # path None: they lie in memory
        self._arrays = dict(arrays)
        self._places: dict[str, int] = {}  # where the columns begin in the file
        self._handle = -1

    def _keep(self, file: BinaryIO, places: dict[str, int]) -> None:
        """Stay able to read the file that was mapped, whatever becomes of its name."""
        self._handle, self._places = os.dup(file.fileno()), places
        weakref.finalize(self, os.close, self._handle)

    def part(self, name: str, start: int, end: int) -> bytes:
        """Bytes of a column of bytes; read from a file, so that no page of it stays mapped."""
        if self.path is None:
            return self._arrays[name][start:end].tobytes()
        return os.pread(self._handle, end - start, self._places[name] + start)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Any:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Columns, (self._arrays,)
        return _opened_before, (self.path, self.key)


class ColumnWriter:
    """Collects columns piece by piece: in temporary files in `folder`, or in memory (None)."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._streams: dict[str, tuple[np.dtype[Any], BinaryIO]] = {}
        self._checks: dict[str, int] = {}

    def write(self, name: str, values: Array) -> None:
        """Append to a column; its first piece decides the type."""
        if name not in self._streams:
            stream: Any = io.BytesIO()
            if self._folder is not None:
                stream = tempfile.TemporaryFile(dir=self._folder, prefix=".columns-")  # noqa: SIM115
            self._streams[name] = values.dtype, stream
            self._checks[name] = 0
        dtype, stream = self._streams[name]
        assert values.ndim == 1 and values.dtype == dtype
        blob = values.tobytes()
        stream.write(blob)
        self._checks[name] = zlib.crc32(blob, self._checks[name])

    def in_memory(self) -> Columns:
        """The columns of a writer without a folder."""
        arrays = {}
        for name, (dtype, stream) in self._streams.items():
            assert isinstance(stream, io.BytesIO)
            arrays[name] = np.frombuffer(stream.getvalue(), dtype)
        return Columns(arrays)

    def save(self, path: Path, key: str) -> None:
        """Write `path` in one step. `key` says whose columns they are.

        Raises DiskError where the disk is full, OSError where it may not be written.
        """
        table, at = [], 0
        for name, (dtype, stream) in self._streams.items():
            size = stream.tell()
            table.append([name, dtype.str, at, size, self._checks[name]])
            at += _aligned(size)
        header = json.dumps({"key": key, "columns": table, "bytes": at}).encode()
        digest = hashlib.sha256(header).digest()
        with atomic_file(path, "the columns of an index") as file:
            head = MAGIC + len(header).to_bytes(8, "little") + digest + header
            file.write(head + bytes(_aligned(len(head)) - len(head)))
            for _, stream in self._streams.values():
                size = stream.tell()
                stream.seek(0)
                shutil.copyfileobj(stream, file, PIECE)
                file.write(bytes(_aligned(size) - size))

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        for _, stream in self._streams.values():
            stream.close()


def open_columns(
    path: Path, key: str, spared: tuple[str, ...] = (), checked: bool = True
) -> Columns:
    """Map a file of columns.

    Args:
        path: the file.
        key: as it was saved with.
        spared: columns whose content is not compared, since each use of them compares its part.
        checked: whether the content of the others is.

    Raises:
        StaleColumnsError: there is no such file, or it is not what was saved under this key.
    """
    try:
        with path.open("rb") as file:
            table, start = _header(file, key)
            if checked:
                _check(file, table, start, spared)
            whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            arrays = {}
            for name, dtype, at, size, _ in table:
                arrays[name] = whole[start + at : start + at + size].view(dtype)
            columns = Columns(arrays, path, key)
            columns._keep(file, {row[0]: start + row[2] for row in table})
            return columns
    except OSError as err:
        raise StaleColumnsError(f"{path}: {err.strerror}") from err


def _opened_before(path: Path, key: str) -> Columns:
    """In a process whose parent had checked the file."""
    try:
        return open_columns(path, key, checked=False)
    except StaleColumnsError as err:
        raise UserError(
            f"{err}; it was there a moment ago: start again, which makes it anew"
        ) from err


def _header(file: BinaryIO, key: str) -> tuple[list[Any], int]:
    """The table of columns, and where they begin."""
    head = file.read(HEAD)
    length = int.from_bytes(head[len(MAGIC) : len(MAGIC) + 8], "little")
    whole = file.seek(0, io.SEEK_END)
    if len(head) != HEAD or not head.startswith(MAGIC) or length > whole:
        raise StaleColumnsError(f"{file.name}: not a file of columns")
    file.seek(HEAD)
    header = file.read(length)
    if hashlib.sha256(header).digest() != head[-32:]:
        raise StaleColumnsError(f"{file.name}: its header is damaged")
    told = json.loads(header)
    start = _aligned(HEAD + length)
    if told["key"] != key:
        raise StaleColumnsError(f"{file.name}: belongs to another index")
    if whole != start + told["bytes"]:
        raise StaleColumnsError(f"{file.name}: has {whole} bytes, not {start + told['bytes']}")
    return told["columns"], start


def _check(file: BinaryIO, table: list[Any], start: int, spared: tuple[str, ...]) -> None:
    for name, _, at, size, crc in table:
        if name in spared:
            continue
        file.seek(start + at)
        found, left = 0, size
        while left > 0 and (piece := file.read(min(left, PIECE))):
            found, left = zlib.crc32(piece, found), left - len(piece)
        if left or found != crc:
            raise StaleColumnsError(f"{file.name}: its column '{name}' is damaged")


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN

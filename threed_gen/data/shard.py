"""Shards: plain tar files whose members can be read in place.

A member is `<id>/r<resolution>.sdf.zst`, one payload. Headers carry no time, owner or host, so
equal payloads give equal shards. Writing goes through a temporary name; reading is one `pread` of
(offset, size) from the index, checked against the member's sha256, and never walks the tar.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from threed_gen.data.payload import CorruptSampleError
from threed_gen.files import atomic_file

BLOCK = tarfile.BLOCKSIZE
TRAILER = bytes(2 * BLOCK)  # two empty blocks end a tar


@dataclass(frozen=True)
class Placed:
    """Where a member's payload lies in its shard."""

    offset: int
    size: int


@dataclass(frozen=True)
class ShardFile:
    """A finished shard: file name, size in bytes, sha256 of all of it."""

    file: str
    size: int
    sha256: str


def shard_name(number: int, kind: str = "shard") -> str:
    """`shard-000000.tar`, `shard-000001.tar`, …"""
    return f"{kind}-{number:06d}.tar"


def member_name(sample: str, resolution: int) -> str:
    """The name under which a sample's grid lies in its shard."""
    return f"{sample}/r{resolution}.sdf.zst"


def member_header(name: str, size: int) -> bytes:
    """The tar header of a member, the same on every machine at any time."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uid, info.gid = size, 0, 0o644, 0, 0
    # PAX: names of any length and alphabet.
    return info.tobuf(format=tarfile.PAX_FORMAT)


def padded(size: int) -> int:
    """Bytes that `size` bytes of content take in a tar."""
    return -(-size // BLOCK) * BLOCK


class ShardWriter:
    """Appends members to an open file and keeps the running sha256 of everything written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, name: str, payload: bytes) -> Placed:
        """Append one member and say where its payload begins."""
        self._write(member_header(name, len(payload)))
        placed = Placed(self.size, len(payload))
        self._write(payload + bytes(padded(len(payload)) - len(payload)))
        return placed

    def finish(self, name: str) -> ShardFile:
        """Write the end of the tar."""
        self._write(TRAILER)
        return ShardFile(name, self.size, self._hash.hexdigest())

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size += len(content)


def write_shard(
    folder: Path, number: int, members: Iterable[tuple[str, bytes]], kind: str = "shard"
) -> tuple[ShardFile, list[Placed]]:
    """Write one shard of (member name, payload) pairs; it appears whole or not at all."""
    name = shard_name(number, kind)
    with atomic_file(folder / name, "a shard") as file:
        writer = ShardWriter(file)
        placed = [writer.add(member, payload) for member, payload in members]
        return writer.finish(name), placed


def read_member(path: Path, offset: int, size: int, sha256: str) -> bytes:
    """The payload at (offset, size) of a shard; CorruptSampleError if it is not what was stored."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError as err:
        raise CorruptSampleError("the shard file is missing") from err
    try:
        return checked(read_range(handle, offset, size), size, sha256)
    finally:
        os.close(handle)


def checked(blob: bytes, size: int, sha256: str) -> bytes:
    """`blob` itself, if it is the payload that was stored; CorruptSampleError otherwise."""
    if len(blob) != size:
        raise CorruptSampleError(f"the shard ends after {len(blob)} of {size} bytes of it")
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise CorruptSampleError("its bytes are not those that were stored (sha256 differs)")
    return blob


def read_range(handle: int, offset: int, size: int) -> bytes:
    """`size` bytes of an open file from `offset` on; fewer where it ends before."""
    parts: list[bytes] = []
    while size > 0:  # one pread returns at most 2 GiB
        part = os.pread(handle, min(size, 1 << 30), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)

"""A .zip that holds exactly one mesh file is an asset: read in memory, nothing is extracted.

The directory of the archive is judged first (names, links, passwords, sizes, ratio), and while an
entry inflates it is held to the size that the directory gave.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Container
from pathlib import PurePosixPath

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.reading.beside import candidates
from threed_gen.geometry.reading.reasons import ReadLimits, reject, shown

ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_RATIO_FROM = 10_000_000  # bytes; a small file may well be very regular
_PIECE = 1 << 20


class Archive:
    """The entries of one archive, and the mesh among them."""

    def __init__(self, content: bytes, suffixes: Container[str], limits: ReadLimits) -> None:
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as err:
            raise reject("unreadable", f"is no readable .zip: {shown(str(err))}") from err
        infos = self.zip.infolist()
        if len(infos) > limits.max_entries:
            raise reject(
                "archive_bomb",
                f"holds {len(infos):,} entries, more than the limit of {limits.max_entries:,}",
            )
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            self._add(info)
        _check_sizes(list(self.entries.values()), len(content), limits)
        self.mesh = self._one_mesh(suffixes)
        self.folder = PurePosixPath(self.mesh).parent

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename.replace("\\", "/")  # some programs of Windows write it so
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":" or "\0" in name:
            raise reject(
                "archive_escape", f'has an entry "{shown(name)}", which leads out of the archive'
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise reject("archive_escape", f'has an entry "{shown(name)}", which is a link')
        if name.endswith("/") or kind == stat.S_IFDIR:
            return
        if info.flag_bits & 0x1:
            raise reject("archive_encrypted", "is locked with a password; unpack it first")
        name = str(PurePosixPath(name))
        if name in self.entries:
            raise reject("unreadable", f'has two entries of the name "{shown(name)}"')
        self.entries[name] = info

    def _one_mesh(self, suffixes: Container[str]) -> str:
        # Archives made on a Mac hold a shadow "__MACOSX/._name" of every file.
        names = [
            path for path in map(PurePosixPath, sorted(self.entries))
            if "__MACOSX" not in path.parts and not path.name.startswith("._")
        ]  # fmt: skip
        meshes = [path for path in names if path.suffix.lower() in suffixes]
        if len(meshes) > 1:
            some = ", ".join(shown(str(path), 60) for path in meshes[:3])
            raise reject(
                "archive_several_meshes",
                f"holds {len(meshes)} meshes ({some}{', …' * (len(meshes) > 3)}); "
                "unpack it, or make one archive of each",
            )
        if not meshes and any(path.suffix.lower() in ARCHIVES for path in names):
            raise reject("archive_nested", "holds no mesh but another archive; unpack it first")
        if not meshes:
            raise reject("archive_no_mesh", "holds no mesh of a known format")
        return str(meshes[0])

    def read_mesh(self) -> bytes:
        """The content of the one mesh file."""
        return self._inflate(self.mesh)

    def read(self, reference: str) -> bytes:
        """The content of a file that the mesh names."""
        for name in candidates(reference):
            path = str(self.folder / name)
            if path in self.entries:
                return self._inflate(path)
        raise reject("missing_file", f'needs "{shown(reference)}", which is not in the archive')

    def has(self, reference: str) -> bool:
        """Whether the archive holds such a file."""
        try:
            names = candidates(reference)
        except MeshError:
            return False
        return any(str(self.folder / name) in self.entries for name in names)

    def _inflate(self, name: str) -> bytes:
        info = self.entries[name]
        if info.compress_type not in _READABLE:
            raise reject("unreadable", f'packs "{shown(name)}" in a way that cannot be read')
        try:
            with self.zip.open(info) as file:
                # In pieces: the stream stops at the size that the directory stated (and that was
                # judged), and then compares the checksum, so a directory that lies gains nothing.
                content = b"".join(iter(lambda: file.read(_PIECE), b""))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as err:
            raise reject("unreadable", f'"{shown(name)}" in it is damaged: {err}') from err
        if len(content) != info.file_size:
            raise reject("unreadable", f'"{shown(name)}" in it is cut off')
        return content


def _check_sizes(entries: list[zipfile.ZipInfo], packed: int, limits: ReadLimits) -> None:
    inflated = sum(info.file_size for info in entries)
    if inflated > limits.max_bytes:
        raise reject(
            "archive_bomb",
            f"inflates to {inflated / 1e6:,.0f} MB, more than the limit of "
            f"{limits.max_bytes / 1e6:,.0f} MB",
        )
    if inflated > _RATIO_FROM and inflated > limits.max_ratio * packed:
        raise reject(
            "archive_bomb",
            f"inflates to {inflated / max(packed, 1):,.0f} times its size, more than the limit of "
            f"{limits.max_ratio:,.0f} times",
        )

"""A folder of mesh files, searched deeply, in the order of their paths."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.files import file_sha256
from threed_gen.geometry.mesh_io import MESH_SUFFIXES, LoadedMesh, load_asset

if TYPE_CHECKING:  # only views need the renderer
    from threed_gen.geometry.render.paint import PaintedMesh


@dataclass(frozen=True)
class FileAsset:
    """A mesh file below a folder."""

    id: str
    source: str  # path below the folder, with forward slashes
    path: Path
    family: str | None = None
    licence: str | None = None
    tags: Mapping[str, Tag] = field(default_factory=dict)

    def stamp(self) -> list[int]:
        """Size and time of the last change."""
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns]

    def sha256(self) -> str:
        """sha256 of the file."""
        return file_sha256(self.path)

    def load(self) -> LoadedMesh:
        """Read the file; MeshError if there is no usable mesh in it."""
        return load_asset(self.path)

    def paint(self) -> PaintedMesh:
        """Read the file with its colours."""
        from threed_gen.geometry.render.appearance import load_painted

        return load_painted(self.path)


class FolderSource:
    """All mesh files below a folder, in the order of their paths."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            problem = "is a file, not a folder" if path.exists() else "no such folder"
            raise UserError(f"{path}: {problem}; give the folder that holds your meshes")
        files = sorted(
            (file.relative_to(path).as_posix(), file)
            for file in path.rglob("*")
            if file.suffix.lower() in MESH_SUFFIXES and file.is_file()
        )
        if not files:
            raise UserError(
                f"{path}: no meshes in it; it should hold {', '.join(sorted(MESH_SUFFIXES))} files"
            )
        ids = unique_ids([name for name, _ in files])
        self.assets = [FileAsset(i, name, file) for i, (name, file) in zip(ids, files, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Folders may be moved and may grow; only the kind has to stay."""
        return {"kind": "folder"}

    def __iter__(self) -> Iterator[FileAsset]:
        return iter(self.assets)

    def __len__(self) -> int:
        return len(self.assets)


def unique_ids(paths: list[str]) -> list[str]:
    """An id for each relative path: the stem, or as much of the path as it takes to be unique."""
    # A leading dot would hide the sample, or be a way out of the folder it is unpacked into.
    ids = [re.sub(r"^\.", "_", Path(path).stem) for path in paths]
    longer = (
        lambda path: str(Path(path).with_suffix("")).replace("/", "__"),
        lambda path: path.replace("/", "__"),
        lambda path: f"{path.replace('/', '__')}-{_digest(path)}",
    )
    for form in longer:
        count = Counter(name.casefold() for name in ids)  # some file systems ignore case
        clashing = [count[name.casefold()] > 1 for name in ids]
        ids = [
            form(path) if clash else name
            for name, path, clash in zip(ids, paths, clashing, strict=True)
        ]
    return ids


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:12]

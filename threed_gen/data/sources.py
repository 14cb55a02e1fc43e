"""Where meshes come from: a folder of files, or the endless procedural set.

A source lists its assets in a fixed order without reading them. Every asset knows a key (its place
in the source), an id (unique, the file's stem where possible) and a fingerprint that is cheap to
take, so that a second `prepare` can tell what has changed without opening a mesh.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from threed_gen.data.procedural.families import LICENCE, make_mesh, shape_name
from threed_gen.errors import UserError
from threed_gen.files import file_sha256
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.mesh_io import MESH_SUFFIXES, load_mesh


class Asset(Protocol):
    """One mesh of a source."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...  # also the key under which progress is recorded
    @property
    def family(self) -> str | None: ...
    @property
    def licence(self) -> str | None: ...

    def stamp(self) -> list[int]:
        """A cheap fingerprint; as long as it stays the same, so does the mesh."""
        ...

    def sha256(self) -> str:
        """A fingerprint of the content itself."""
        ...

    def load(self) -> Mesh: ...


class Source(Protocol):
    """An ordered list of assets. `describe` is what must stay the same between runs."""

    def describe(self) -> dict[str, Any]: ...
    def __iter__(self) -> Iterator[Asset]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class FileAsset:
    """A mesh file below a folder."""

    id: str
    source: str  # path below the folder, with forward slashes
    path: Path
    family: str | None = None
    licence: str | None = None

    def stamp(self) -> list[int]:
        """Size and time of the last change."""
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns]

    def sha256(self) -> str:
        """sha256 of the file."""
        return file_sha256(self.path)

    def load(self) -> Mesh:
        """Read the file; MeshError if there is no usable mesh in it."""
        return load_mesh(self.path)


@dataclass(frozen=True)
class ProceduralAsset:
    """Shape number `index` of the procedural set."""

    index: int
    seed: int

    @property
    def id(self) -> str:
        """For example `mug_0003`."""
        return shape_name(self.index)

    @property
    def source(self) -> str:
        """For example `procedural/mug_0003`."""
        return f"procedural/{self.id}"

    @property
    def family(self) -> str:
        """For example `mug`."""
        return self.id.rsplit("_", 1)[0]

    @property
    def licence(self) -> str:
        """Nobody's: CC0."""
        return LICENCE

    def stamp(self) -> list[int]:
        """Number and seed say everything."""
        return [self.index, self.seed]

    def sha256(self) -> str:
        """A hash of number and seed."""
        return hashlib.sha256(f"{self.source} {self.seed}".encode()).hexdigest()

    def load(self) -> Mesh:
        """Build the mesh."""
        return make_mesh(self.index, self.seed)[1]


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


class ProceduralSource:
    """The first `count` shapes of the procedural set."""

    def __init__(self, count: int, seed: int = 0) -> None:
        if count < 1:
            raise UserError(f"a procedural set needs at least 1 shape, got {count}")
        self.count, self.seed = count, seed

    def describe(self) -> dict[str, Any]:
        """The set may grow, its seed may not change."""
        return {"kind": "procedural", "seed": self.seed}

    def __iter__(self) -> Iterator[ProceduralAsset]:
        return (ProceduralAsset(index, self.seed) for index in range(self.count))

    def __len__(self) -> int:
        return self.count


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

"""A manifest: a table of meshes with what is known of them (ids, hashes, captions, licences).

Paths are relative to the folder of the manifest, or to the root that was given, and have to stay
below it: a manifest is text of unknown origin. A row whose mesh cannot be had (no file, a path
that leads out, a hash that differs) is an asset that is rejected by name; a row that makes no
sense, or names the same thing as an earlier one, is an error with its line number.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed_gen.data.source_kinds.columns import Record, read_records
from threed_gen.data.source_kinds.folder import unique_ids
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.files import file_sha256
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import LoadedMesh, load_asset

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # what may name a file anywhere
_NO_FILE, _OUTSIDE = -1, -2  # stamps of what is not there and of what is not looked at

if TYPE_CHECKING:  # only views need the renderer
    from threed_gen.geometry.render.paint import PaintedMesh


@dataclass(frozen=True)
class ManifestAsset:
    """One row of a manifest and the file that it names."""

    id: str
    source: str  # the path as the manifest has it, or the id where it has none
    root: Path
    path: str | None
    expected_sha256: str | None
    licence: str | None
    where: str  # the row, for messages
    family: str | None = None
    tags: Mapping[str, Tag] = field(default_factory=dict)

    def stamp(self) -> list[int]:
        """Size and time of the last change; what cannot be used has a stamp of its own."""
        try:
            status = self._file().stat()
        except MeshError as err:
            return [_OUTSIDE if err.reason == "outside_reference" else _NO_FILE]
        return [status.st_size, status.st_mtime_ns]

    def sha256(self) -> str:
        """sha256 of the file; MeshError if the manifest says another one."""
        file = self._file()
        found = file_sha256(file)
        if self.expected_sha256 not in (None, found):
            raise MeshError(
                f"{file}: its sha256 is {found}, the manifest ({self.where}) says "
                f"{self.expected_sha256}: get the file again",
                "wrong_hash",
            )
        return found

    def load(self) -> LoadedMesh:
        """Read the file, once its hash is known to be right."""
        if self.expected_sha256 is not None:
            self.sha256()
        return load_asset(self._file())

    def paint(self) -> PaintedMesh:
        """Read the file with its colours, once its hash is known to be right."""
        from threed_gen.geometry.render.appearance import load_painted

        if self.expected_sha256 is not None:
            self.sha256()
        return load_painted(self._file())

    def _file(self) -> Path:
        if self.path is None:
            raise MeshError(f"the manifest ({self.where}) names no file for '{self.id}'", "missing")
        try:
            root = self.root.resolve()
            file = Path(os.path.realpath(root / self.path))  # follows links, so none leads out
        except (OSError, ValueError) as err:  # a loop of links, a zero byte
            raise MeshError(f"{self.path!r} ({self.where}): not a path ({err})", "missing") from err
        if not file.is_relative_to(root):
            raise MeshError(
                f"{self.path} ({self.where}): leads out of {root}; move the file there, or give "
                "`--root` the folder that holds all files",
                "outside_reference",
            )
        if not file.is_file():
            archive = next((p for p in file.parents if p.suffix == ".zip" and p.is_file()), None)
            hint = f": unpack {archive} first" if archive else ""
            raise MeshError(f"{file} ({self.where}): no such file{hint}", "missing")
        return file


class ManifestSource:
    """The meshes of a CSV or Parquet table, in the order of their keys (path, else id)."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        if root is not None and not root.is_dir():
            raise UserError(f"{root}: no such folder; give --root the folder that holds the meshes")
        self.path = path
        folder = path.absolute().parent if root is None else root.absolute()
        records = list(read_records(path))
        if not records:
            raise UserError(f"{path}: lists no meshes")
        assets = [
            ManifestAsset(
                id=asset_id,
                source=_key(record, folder) or f"manifest/{asset_id}",
                root=folder,
                path=record.path,
                expected_sha256=record.sha256,
                licence=record.licence,
                where=record.where,
                tags=_tags(record),
            )
            for asset_id, record in zip(_ids(path, records), records, strict=True)
        ]
        _refuse_repeats(path, "file", ((a.source, a.where) for a in assets))
        self.assets = sorted(assets, key=lambda asset: asset.source)

    def describe(self) -> dict[str, Any]:
        """Tables may grow; what they say of a mesh changes no payload."""
        return {"kind": "manifest"}

    def __iter__(self) -> Iterator[ManifestAsset]:
        return iter(self.assets)

    def __len__(self) -> int:
        return len(self.assets)


def _key(record: Record, root: Path) -> str | None:
    """The path below the root, with forward slashes; one that leads out stays as it is."""
    if record.path is None:
        return None
    path = Path(record.path)
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _tags(record: Record) -> dict[str, Tag]:
    source: dict[str, Tag] = {"file_identifier": record.identifier} if record.identifier else {}
    return {**record.tags, **source}


def _ids(path: Path, records: list[Record]) -> list[str]:
    """One id per row: its uid, else its sha256, else the stem of its path."""
    named = [record.uid or record.sha256 for record in records]
    rows = zip(named, records, strict=True)
    _refuse_repeats(path, "id", ((name, r.where) for name, r in rows if name is not None))
    stems = [r.path or r.identifier or "" for r in records]
    unnamed = [stem for stem, name in zip(stems, named, strict=True) if name is None]
    from_paths = iter(unique_ids(unnamed))
    ids = [safe_id(name if name is not None else next(from_paths)) for name in named]
    count = Counter(name.casefold() for name in ids)  # some file systems ignore case
    return [
        f"{name}-{_digest(name + '/' + stem)}" if count[name.casefold()] > 1 else name
        for name, stem in zip(ids, stems, strict=True)
    ]


def safe_id(name: str) -> str:
    """`name` itself where it can name a file anywhere, else a form of it that can."""
    if _SAFE.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:60].lstrip(".-")
    return f"{plain or 'id'}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _refuse_repeats(path: Path, what: str, names: Iterator[tuple[str, str]]) -> None:
    """Every name once; the error says both places."""
    seen: dict[str, str] = {}
    for name, where in names:
        if name in seen:
            raise UserError(
                f"{path}, {where}: the same {what} '{name[:80]}' as in {seen[name]}; "
                "remove one of the two"
            )
        seen[name] = where

"""Objaverse and Objaverse-XL: objects that are downloaded one at a time, when they are needed.

Which objects there are, and where they lie, comes from the tables of the `objaverse` package (see
objaverse_tables.py). The objects themselves are fetched here: `objaverse.load_objects` and
`objaverse.xl.download_objects` neither retry nor time out, stop at the first object that fails,
look through all finished files after each one, and clone whole repositories for one file of
GitHub. An object of the 1.0 tables has no checksum there, so its declared length is checked; one
of the XL tables is compared with their sha256.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed_gen.data.source_kinds.columns import Record
from threed_gen.data.source_kinds.download import DownloadPolicy, fetch
from threed_gen.data.source_kinds.manifest import safe_id
from threed_gen.data.source_kinds.objaverse_tables import V1Tables, XLRow, XLTables, sketchfab_uid
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.files import file_sha256
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import LoadedMesh, load_asset

if TYPE_CHECKING:  # only views need the renderer
    from threed_gen.geometry.render.paint import PaintedMesh


@dataclass(frozen=True)
class ObjaverseAsset:
    """One object: where it is fetched from, and where it lies afterwards."""

    id: str
    source: str
    url: str | None  # None: the tables do not know the object
    file: Path  # in the cache
    expected_sha256: str | None
    policy: DownloadPolicy
    licence: str | None = None
    family: str | None = None
    tags: Mapping[str, Tag] = field(default_factory=dict)

    def stamp(self) -> list[int]:
        """Published objects do not change: the name, and the hash where there is one."""
        text = f"{self.source} {self.expected_sha256}".encode()
        return [int.from_bytes(hashlib.sha256(text).digest()[:6], "big")]

    def sha256(self) -> str:
        """What the table says, else the hash of the file, which is downloaded for it."""
        return self.expected_sha256 or file_sha256(self._download())

    def load(self) -> LoadedMesh:
        """Download the object if it is not in the cache, and read it."""
        return load_asset(self._download())

    def paint(self) -> PaintedMesh:
        """Read the object with its colours, as `load` does."""
        from threed_gen.geometry.render.appearance import load_painted

        return load_painted(self._download())

    def _download(self) -> Path:
        if self.url is None:
            raise MeshError(f"Objaverse's tables know no object '{self.id}'", "not_found")
        fetch(self.url, self.file, self.id, self._check, self.policy)
        return self.file

    def _check(self, file: Path) -> None:
        if self.expected_sha256 is None:
            check_glb(file, self.id)
            return
        found = file_sha256(file)
        if found != self.expected_sha256:
            raise MeshError(
                f"{self.url}: its sha256 is {found}, the table says {self.expected_sha256}: it "
                "was changed since the table was made",
                "wrong_hash",
            )


def check_glb(file: Path, name: str) -> None:
    """MeshError unless the file is a glb of exactly the length that it declares."""
    with file.open("rb") as handle:
        head = handle.read(12)
    size = file.stat().st_size
    if len(head) < 12 or head[:4] != b"glTF":
        raise MeshError(f"'{name}': {size} bytes that are no glb", "wrong_content")
    declared = struct.unpack("<I", head[8:12])[0]
    if size < declared:
        raise MeshError(f"'{name}': {size} of the {declared} bytes that it declares", "truncated")
    if size > declared:
        raise MeshError(f"'{name}': {size} bytes, but declares {declared}", "wrong_content")


class ObjaverseSource:
    """Objects of Objaverse 1.0, in the order of their paths.

    `records` chooses objects by uid and may bring captions, scores and flags (the rows of
    Objaverse++, for example); `categories` chooses LVIS categories; neither means all objects.
    """

    def __init__(
        self,
        tables: V1Tables,
        policy: DownloadPolicy,
        records: Sequence[Record] | None = None,
        categories: Sequence[str] = (),
    ) -> None:
        self.tables, self.policy = tables, policy
        self.paths = tables.object_paths()
        self.records = {_uid(record): record for record in records or ()}
        self.families: dict[str, str] = {}
        uids = list(self.records) if records is not None else list(self.paths)
        if categories:
            self.families = tables.families(categories)
            uids = list(self.families)
        # Unknown ones first, then folder by folder: each table of annotations is read once.
        self.uids = sorted(dict.fromkeys(uids), key=lambda uid: (self.paths.get(uid, ""), uid))

    def describe(self) -> dict[str, Any]:
        """The choice of objects may change; where they come from may not."""
        return {"kind": "objaverse", "tables": "1.0"}

    def __len__(self) -> int:
        return len(self.uids)

    def __iter__(self) -> Iterator[ObjaverseAsset]:
        for uid in self.uids:
            path = self.paths.get(uid)
            facts = self.tables.facts(uid, path) if path is not None else None
            record = self.records.get(uid)
            tags = {**(facts.tags if facts else {}), **(record.tags if record else {})}
            yield ObjaverseAsset(
                id=safe_id(uid),
                source=f"objaverse/{uid}",
                url=None if path is None else self.tables.url(path),
                file=self.tables.file(path or "unknown"),
                expected_sha256=None,
                policy=self.policy,
                licence=facts.licence if facts else record.licence if record else None,
                family=self.families.get(uid),
                tags=tags,
            )


class ObjaverseXLSource:
    """Objects of one part of Objaverse-XL, in the order of their hashes.

    `records` chooses objects by sha256, file_identifier or uid and may bring captions, scores and
    flags (the rows of TRELLIS-500K, for example); None means all objects of a readable format.
    """

    def __init__(
        self, tables: XLTables, policy: DownloadPolicy, records: Sequence[Record] | None = None
    ) -> None:
        self.tables, self.policy = tables, policy
        wanted = {_xl_name(record): record for record in records or ()}
        self.records: dict[str, Record] = {}  # by sha256
        rows: dict[str, XLRow] = {}
        for row in tables.rows():
            name = next((n for n in _names(row) if n in wanted), None)
            if name is not None:
                self.records[row.sha256] = wanted.pop(name)
            if name is not None or records is None:
                rows.setdefault(row.sha256, row)  # one file under two names is one object
        for name, record in wanted.items():  # not listed: rejected by name, not passed over
            sha256 = record.sha256 or hashlib.sha256(name.encode()).hexdigest()
            if sha256 not in rows:
                rows[sha256] = XLRow(sha256, record.identifier or name, listed=False)
        self.rows = [rows[key] for key in sorted(rows)]

    def describe(self) -> dict[str, Any]:
        """The choice of objects may change; where they come from may not."""
        return {"kind": "objaverse", "tables": f"xl/{self.tables.part}"}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ObjaverseAsset]:
        for row in self.rows:
            record = self.records.get(row.sha256)
            yield ObjaverseAsset(
                id=row.sha256,
                source=f"objaverse-xl/{self.tables.part}/{row.sha256}",
                url=self.tables.url(row),
                file=self.tables.file(row),
                expected_sha256=row.sha256,
                policy=self.policy,
                licence=row.licence,
                tags={"file_identifier": row.identifier, **(record.tags if record else {})},
            )


def _uid(record: Record) -> str:
    name = sketchfab_uid(record.uid or record.identifier or "")
    if not name:
        raise UserError(f"{record.where} of the table names no uid; Objaverse 1.0 needs one")
    return name


def _xl_name(record: Record) -> str:
    name = record.sha256 or record.identifier or record.uid
    if name is None:
        raise UserError(f"{record.where} of the table has neither sha256 nor file_identifier")
    return name


def _names(row: XLRow) -> tuple[str, str, str]:
    return row.sha256, row.identifier, sketchfab_uid(row.identifier)

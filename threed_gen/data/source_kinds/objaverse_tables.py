"""The tables of Objaverse, read by the `objaverse` package from a cache of our choice.

The package fetches its tables without retries or time-outs, keeps those of 1.0 below the home
directory, and leaves half a file where it is killed. So each table is downloaded here first, to
the very place in `cache` where the package looks for it; the package then only reads it, through
its functions that take a `download_dir`. One table it is not asked for: the annotations of 1.0,
which `load_annotations` keeps in memory for all 800,000 objects at once; they are read a folder at
a time. Everything in a table is text of unknown origin and is checked before it names a file.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threed_gen.data.source_kinds.columns import MAX_TEXT
from threed_gen.data.source_kinds.download import DownloadPolicy, fetch
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import MESH_SUFFIXES

HUGGING_FACE = "https://huggingface.co"
XL_PARTS = ("github", "sketchfab", "smithsonian", "thingiverse")
_V1 = "hf-objaverse-v1"  # the package's name of the folder
_OBJECT_PATH = re.compile(r"glbs/(\d{3}-\d{3})/[A-Za-z0-9_-]{1,80}\.glb")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LICENCES = {"by": "CC-BY", "by-sa": "CC-BY-SA", "by-nd": "CC-BY-ND", "by-nc": "CC-BY-NC",
             "by-nc-sa": "CC-BY-NC-SA", "by-nc-nd": "CC-BY-NC-ND", "cc0": "CC0"}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the annotations of 1.0 say of an object, as far as it is kept."""

    licence: str | None = None
    tags: dict[str, Tag] = field(default_factory=dict)  # title, author, page: for attribution


@dataclass(frozen=True)
class XLRow:
    """One object of Objaverse-XL."""

    sha256: str
    identifier: str  # the address under which the table lists it
    licence: str | None = None
    suffix: str = ""
    listed: bool = True  # False: asked for, but not in the table


class _Tables:
    def __init__(
        self, cache: Path, base: str = HUGGING_FACE, policy: DownloadPolicy | None = None
    ) -> None:
        self.cache, self.base = cache.absolute(), base.rstrip("/")
        self.policy = policy or DownloadPolicy()
        if not self.base.startswith(("https://", "http://")):
            raise UserError(f"{base}: not a web address; the usual one is {HUGGING_FACE}")

    def fetch(self, repository: str, name: str, target: Path) -> None:
        """A table, unless it is there already."""
        url = f"{self.base}/datasets/allenai/{repository}/resolve/main/{name}"
        try:
            fetch(url, target, name, _whole, self.policy)
        except MeshError as err:
            raise UserError(f"{err}; is this a mirror of {HUGGING_FACE}?") from err


class V1Tables(_Tables):
    """Objaverse 1.0: where each object lies, LVIS categories, licences."""

    def __init__(
        self, cache: Path, base: str = HUGGING_FACE, policy: DownloadPolicy | None = None
    ) -> None:
        super().__init__(cache, base, policy)
        self._folder = ""
        self._annotations: dict[str, Any] = {}

    def object_paths(self) -> dict[str, str]:
        """uid → path in the repository, by the package."""
        self.fetch("objaverse", "object-paths.json.gz", self.file("object-paths.json.gz"))
        sketchfab = _package("objaverse.xl.sketchfab").SketchfabDownloader
        paths: dict[str, str] = _read(
            self.file("object-paths.json.gz"),
            lambda: sketchfab._get_object_paths(download_dir=str(self.cache)),
        )
        bad = next((p for p in paths.values() if not _OBJECT_PATH.fullmatch(str(p))), None)
        if bad is not None:
            raise UserError(f"{self.file('object-paths.json.gz')}: '{bad}' is no path of an object")
        return paths

    def families(self, categories: Sequence[str]) -> dict[str, str]:
        """uid → LVIS category, for the categories asked for, by the package."""
        table = self.file("lvis-annotations.json.gz")
        self.fetch("objaverse", "lvis-annotations.json.gz", table)
        sketchfab = _package("objaverse.xl.sketchfab").SketchfabDownloader
        lvis = _read(table, lambda: sketchfab.get_lvis_annotations(download_dir=str(self.cache)))
        unknown = sorted(set(categories) - set(lvis))
        if unknown:
            raise UserError(
                f"'{unknown[0]}' is no LVIS category of Objaverse; there are, for example, "
                f"{', '.join(sorted(lvis)[:5])} ({table} lists all {len(lvis)})"
            )
        return {uid: name for name in sorted(set(categories)) for uid in lvis[name]}

    def facts(self, uid: str, path: str) -> Facts:
        """Licence and attribution of an object; the table of its folder is kept for the next."""
        match = _OBJECT_PATH.fullmatch(path)
        assert match is not None
        folder = match.group(1)
        if self._folder != folder:
            self._folder, self._annotations = folder, self._read_folder(folder)
        return _facts(self._annotations.get(uid))

    def _read_folder(self, folder: str) -> dict[str, Any]:
        table = self.file(f"metadata/{folder}.json.gz")
        self.fetch("objaverse", f"metadata/{folder}.json.gz", table)
        return dict(_read(table, lambda: json.loads(gzip.decompress(table.read_bytes()))))

    def url(self, path: str) -> str:
        """Where an object is downloaded from."""
        return f"{self.base}/datasets/allenai/objaverse/resolve/main/{path}"

    def file(self, name: str) -> Path:
        """Where a file lies in the cache: as in the package's own."""
        return self.cache / _V1 / name


class XLTables(_Tables):
    """Objaverse-XL: hashes, licences and addresses of one part of it."""

    def __init__(
        self,
        part: str,
        cache: Path,
        base: str = HUGGING_FACE,
        policy: DownloadPolicy | None = None,
    ) -> None:
        super().__init__(cache, base, policy)
        if part not in XL_PARTS:
            raise UserError(f"'{part}': Objaverse-XL has the parts {', '.join(XL_PARTS)}")
        self.part = part
        self._v1 = V1Tables(cache, base, policy)  # has the objects of Sketchfab
        self._paths = self._v1.object_paths() if part == "sketchfab" else {}

    def rows(self) -> Iterator[XLRow]:
        """The rows whose format can be read, by the package."""
        table = self.cache / self.part / f"{self.part}.parquet"
        self.fetch("objaverse-xl", f"{self.part}/{self.part}.parquet", table)
        name = {"github": "GitHub"}.get(self.part, self.part.capitalize()) + "Downloader"
        downloader = getattr(_package(f"objaverse.xl.{self.part}"), name)
        annotations = _read(table, lambda: downloader.get_annotations(download_dir=str(self.cache)))
        columns = ("sha256", "fileIdentifier", "license", "fileType")
        missing = [column for column in columns if column not in annotations.columns]
        if missing:
            raise UserError(f"{table}: has no column '{missing[0]}'; delete it and start again")
        for values in zip(*(annotations[column] for column in columns), strict=True):
            sha256, identifier, licence, kind = (v if isinstance(v, str) else "" for v in values)
            suffix = f".{kind.casefold().lstrip('.')}"
            if _SHA256.fullmatch(sha256) and suffix in MESH_SUFFIXES:
                yield XLRow(sha256, identifier, licence or None, suffix)

    def file(self, row: XLRow) -> Path:
        """Where an object lies in the cache: under its hash."""
        name = f"{row.sha256}{row.suffix}"
        return self.cache / "objaverse-xl" / self.part / row.sha256[:2] / name

    def url(self, row: XLRow) -> str | None:
        """Where the file itself is; None for an object that the tables do not know."""
        if not row.listed:
            return None
        if self.part == "sketchfab":
            path = self._paths.get(sketchfab_uid(row.identifier))
            return None if path is None else self._v1.url(path)
        if self.part == "thingiverse":
            number = row.identifier.rpartition("fileId=")[2]
            return f"https://www.thingiverse.com/download:{number}" if number.isdecimal() else None
        if self.part == "github":
            # /blob/ is the page that shows a file; /raw/ is the file, also where it lies in LFS.
            address = row.identifier.replace("/blob/", "/raw/", 1)
            return urllib.parse.quote(address, safe=":/")
        return urllib.parse.quote(row.identifier, safe=":/%?=&")


def sketchfab_uid(identifier: str) -> str:
    """The uid at the end of https://sketchfab.com/3d-models/UID, or of the uid itself."""
    return identifier.rstrip("/").rsplit("/", 1)[-1].removesuffix(".glb")


def _facts(annotation: Any) -> Facts:
    if not isinstance(annotation, dict):
        return Facts()
    user = annotation.get("user")
    author = user.get("displayName") or user.get("username") if isinstance(user, dict) else None
    texts = {"title": annotation.get("name"), "author": author, "page": annotation.get("viewerUrl")}
    code = annotation.get("license")
    return Facts(
        licence=_LICENCES.get(code, code) if isinstance(code, str) and code else None,
        tags={key: text[:MAX_TEXT] for key, text in texts.items() if isinstance(text, str)},
    )


def _package(module: str) -> Any:
    """A module of the `objaverse` package."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise UserError(
            "Objaverse needs the package objaverse; `pip install 'threed-gen[objaverse]'`"
        ) from err


def _read(table: Path, read: Any) -> Any:
    """What `read` makes of a table, or one line that names it."""
    try:
        return read()
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(
            f"{table}: not the table that it should be ({type(err).__name__}); delete it and "
            "run the same command again"
        ) from err


def _whole(table: Path) -> None:
    """A gzip or Parquet file that ends as it should."""
    with table.open("rb") as file:
        head = file.read(4)
        file.seek(max(-4, -table.stat().st_size), 2)
        tail = file.read(4)
    if head[:2] == b"\x1f\x8b" or (head == tail == b"PAR1"):
        return
    raise MeshError(f"{table.name}: not a gzip or Parquet file", "wrong_content")

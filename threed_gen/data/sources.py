"""Where meshes come from, and what a source is called on the command line.

A front: the kinds themselves are in `source_kinds/`, one file each. docs/sources.md describes them
for users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from threed_gen.data.source_kinds.asset import Asset, Source, TryAgainError
from threed_gen.data.source_kinds.download import DownloadPolicy
from threed_gen.data.source_kinds.folder import FileAsset, FolderSource, unique_ids
from threed_gen.data.source_kinds.procedural import ProceduralAsset, ProceduralSource
from threed_gen.data.source_kinds.select import SelectedSource, Selection
from threed_gen.data.source_kinds.tables import TABLE_SUFFIXES
from threed_gen.data.tags import Tag
from threed_gen.errors import UserError

__all__ = [
    "Asset",
    "DownloadPolicy",
    "FileAsset",
    "FolderSource",
    "ProceduralAsset",
    "ProceduralSource",
    "SelectedSource",
    "Selection",
    "Source",
    "SourceOptions",
    "Tag",
    "TryAgainError",
    "source_from",
    "unique_ids",
    "words",
]

DEFAULT_COUNT = 120  # shapes of `procedural`
FORMS = "a folder, a .csv or .parquet table, manifest:FILE, procedural[:COUNT[:SEED]] or objaverse:"
OBJAVERSE_FORMS = (
    "objaverse:all, objaverse:lvis:CATEGORY[,CATEGORY], objaverse:UIDS.txt, objaverse:TABLE.csv "
    "or objaverse:xl:PART[:TABLE.csv] (PART: github, sketchfab, smithsonian, thingiverse)"
)


@dataclass(frozen=True)
class SourceOptions:
    """What the options of `prepare` say about its source."""

    root: Path | None = None  # of a manifest's paths; None: the manifest's folder
    cache: Path | None = None  # where objaverse keeps tables and objects
    objaverse_url: str | None = None  # a mirror of https://huggingface.co
    selection: Selection = field(default_factory=Selection)
    policy: DownloadPolicy = field(default_factory=DownloadPolicy)


def source_from(text: str, options: SourceOptions | None = None) -> Source:
    """The source that `text` names, less what the selection leaves out; UserError if none."""
    options = options or SourceOptions()
    source = _source(text, options)
    if options.selection == Selection():
        return source
    return SelectedSource(source, options.selection)


def words(text: str | None) -> tuple[str, ...]:
    """`a, b` as given to an option → ("a", "b")."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _source(text: str, options: SourceOptions) -> Source:
    kind, _, rest = text.partition(":")
    path = Path(text)
    if path.is_dir():
        return FolderSource(path)
    if kind == "manifest" and rest:
        return _manifest(Path(rest), options)
    if kind == "objaverse":
        return _objaverse(rest, options)
    if kind == "procedural":
        return _procedural(text, rest)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _manifest(path, options)
    return FolderSource(path)  # which says what is wrong with it


def _manifest(path: Path, options: SourceOptions) -> Source:
    from threed_gen.data.source_kinds.manifest import ManifestSource

    return ManifestSource(path, options.root)


def _procedural(text: str, rest: str) -> Source:
    form = f"{text}: expected procedural[:COUNT[:SEED]]"
    numbers = rest.split(":") if text != "procedural" else []
    try:
        count, seed, *more = [*map(int, numbers), *(DEFAULT_COUNT, 0)[len(numbers) :]]
    except ValueError as err:
        raise UserError(f"{form} with whole numbers") from err
    if more or count < 1 or seed < 0:
        raise UserError(f"{form}, COUNT at least 1")
    return ProceduralSource(count, seed)


def _objaverse(text: str, options: SourceOptions) -> Source:
    from threed_gen.data.source_kinds.objaverse import ObjaverseSource, ObjaverseXLSource
    from threed_gen.data.source_kinds.objaverse_choice import read_choice
    from threed_gen.data.source_kinds.objaverse_tables import HUGGING_FACE, V1Tables, XLTables

    if options.cache is None:
        raise UserError(
            "objaverse needs --cache DIR, a folder with room for the objects that are downloaded"
        )
    base, policy = options.objaverse_url or HUGGING_FACE, options.policy
    kind, _, rest = text.partition(":")
    if kind == "xl" and rest:
        part, _, table = rest.partition(":")
        choice = read_choice(Path(table)) if table else None
        return ObjaverseXLSource(XLTables(part, options.cache, base, policy), policy, choice)
    if text == "all":
        choice = None
    elif kind != "lvis" and Path(text).suffix.lower() in (".txt", *TABLE_SUFFIXES):
        choice = read_choice(Path(text))
    elif kind != "lvis" or not words(rest):
        raise UserError(f"objaverse:{text}: expected {OBJAVERSE_FORMS}")
    else:
        choice = None
    categories = words(rest) if kind == "lvis" else ()
    return ObjaverseSource(V1Tables(options.cache, base, policy), policy, choice, categories)

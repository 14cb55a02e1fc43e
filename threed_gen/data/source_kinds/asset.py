"""What every source has in common: an ordered list of assets that are read one at a time.

A source lists its assets in a fixed order without reading them. Every asset knows a key (its place
in the source), an id (unique, the file's stem where possible) and a fingerprint that is cheap to
take, so that a second `prepare` can tell what has changed without opening a mesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from threed_gen.data.tags import Tag
from threed_gen.errors import UserError
from threed_gen.geometry.mesh_io import LoadedMesh

if TYPE_CHECKING:  # only views need the renderer
    from threed_gen.geometry.render.paint import PaintedMesh


class TryAgainError(UserError):
    """An asset could not be had this time, for no fault of its own: the network, a server.

    Its outcome is `failed`, not a reject: `prepare --retry-failed` tries it again.
    """

    def __init__(self, message: str, reason: str = "network") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:  # it has to come back from a child process whole
        return TryAgainError, (str(self), self.reason)


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
    @property
    def tags(self) -> Mapping[str, Tag]: ...  # what a table says of it; {} if there is none

    def stamp(self) -> list[int]:
        """A cheap fingerprint; as long as it stays the same, so does the mesh."""
        ...

    def sha256(self) -> str:
        """A fingerprint of the content itself. May read or download the file."""
        ...

    def load(self) -> LoadedMesh:
        """The mesh; MeshError (with a reason) rejects it, TryAgainError only puts it off."""
        ...


@runtime_checkable
class PaintedAsset(Protocol):
    """An asset that also knows its colours; another one is photographed in a neutral material."""

    def paint(self) -> PaintedMesh:
        """The mesh of `load` with its colours, in the unit frame; fails as `load` does."""
        ...


class Source(Protocol):
    """An ordered list of assets. `describe` is what must stay the same between runs."""

    def describe(self) -> dict[str, Any]: ...
    def __iter__(self) -> Iterator[Asset]: ...
    def __len__(self) -> int: ...

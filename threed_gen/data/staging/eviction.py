"""Which copies leave the staging folder: the least recently needed, and none that is in use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from threed_gen.data.locks import take
from threed_gen.errors import UserError
from threed_gen.files import TEMPORARY


class NoRoomError(UserError):
    """The limit of the folder is taken up by what is needed."""


@dataclass(frozen=True)
class Copy:
    """One file of the staging folder."""

    name: str
    size: int  # bytes
    needed: float  # when a run last said that it needs it, seconds since the epoch


def victims(copies: Sequence[Copy], wanted: Collection[str]) -> list[Copy]:
    """Those that may go, in the order in which they should."""
    free = [c for c in copies if c.name not in wanted and not c.name.endswith(TEMPORARY)]
    return sorted(free, key=lambda copy: (copy.needed, copy.name))


def make_room(
    folder: Path, copies: Sequence[Copy], size: int, limit: int, wanted: Collection[str]
) -> int:
    """Delete copies until `size` more bytes fit below `limit`; how many went.

    NoRoomError if that cannot be had; where it is clear beforehand, nothing is deleted.
    """
    over = sum(copy.size for copy in copies) + size - limit
    free = victims(copies, wanted)
    evicted = 0
    if over <= sum(copy.size for copy in free):
        for copy in free:
            if over <= 0:
                break
            if _evict(folder / copy.name):
                over -= copy.size
                evicted += 1
    if over > 0:
        raise NoRoomError(
            f"{folder}: {over / 1e9:,.3g} GB short of room for the shards that the coming steps "
            "need; raise data.stage.limit_gb, or lower data.stage.ahead"
        )
    return evicted


def _evict(path: Path) -> bool:
    """Delete a copy unless somebody reads it this moment."""
    try:
        with path.open("r+b") as file:
            if not take(file):
                return False
            path.unlink()
            return True
    except FileNotFoundError:
        return True  # dropped by a reader who found it damaged

"""What the runs on a node need next, where the one process that copies can read it.

Each rank keeps one small file `wishes/<name>.json` in the staging folder: names of copies, those
needed first at the front, and of which data set. Its owner holds a lock on it; an unlocked one
belongs to a process that has ended, however, and is deleted by whoever sees it.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from threed_gen.data.locks import take
from threed_gen.files import TEMPORARY

FOLDER = "wishes"


@dataclass(frozen=True)
class Wish:
    """The next shards of one rank."""

    origin: str  # of the data set: whoever copies from there serves it
    copies: list[str]  # names in the staging folder, first needed first


class OwnWish:
    """The file of this rank; it goes with the process, or with `close`."""

    def __init__(self, root: Path, origin: str) -> None:
        self.origin = origin
        self.path = root / FOLDER / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BufferedWriter | None = None
        self.write([])

    def write(self, copies: list[str]) -> None:
        """Replace the list in one step; the new file is locked before it takes the name.

        OSError if the disk does not take it.
        """
        temporary = self.path.with_suffix(TEMPORARY)
        file = temporary.open("wb")
        try:
            take(file)
            file.write(json.dumps({"origin": self.origin, "copies": copies}).encode())
            file.flush()
            temporary.replace(self.path)
        except OSError:  # a full disk: the last wish stays
            file.raw.close()  # and no second try to write what is still buffered
            temporary.unlink(missing_ok=True)
            raise
        if self._file is not None:
            self._file.close()
        self._file = file

    def close(self) -> None:
        """Want nothing any more."""
        self.path.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()


def wishes(root: Path) -> list[Wish]:
    """Of all processes that live."""
    found = []
    for path in sorted((root / FOLDER).glob("*.json")):
        wish = _read(path)
        if wish is not None:
            found.append(wish)
    return found


def _read(path: Path) -> Wish | None:
    """One wish; None where its owner is gone."""
    while True:
        try:
            with path.open("rb") as file:
                if not take(file, shared=True):  # its owner lives
                    row = json.loads(file.read())
                    return Wish(row["origin"], row["copies"])
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    path.unlink(missing_ok=True)
                    return None
            # It was replaced after we had opened it: the name has a newer one.
        except FileNotFoundError:
            return None

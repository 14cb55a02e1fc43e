"""The index of a data set at a URL, fetched once per node into a file that all its ranks read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from threed_gen.console import say
from threed_gen.data.config import StageConfig
from threed_gen.data.index import INDEX_NAME
from threed_gen.data.locks import locked
from threed_gen.data.node_index import node_folder
from threed_gen.data.staging.fetch import Remote
from threed_gen.errors import UserError
from threed_gen.files import atomic_file, remove_temporaries

HEAD = 256  # bytes: line 1 has the version, the count and the sha256 of all that follows


def local_index(remote: Remote, stage: StageConfig) -> Path:
    """The folder of this node's copy of the index; FetchError if it cannot be read.

    Every process asks for the size and the first bytes, which tell a new index from an old one.
    """
    size = remote.size(INDEX_NAME)
    head = remote.read(INDEX_NAME, 0, min(size, HEAD))
    key = hashlib.sha256(f"{remote.url} {size} ".encode() + head).hexdigest()[:32]
    home = node_folder(stage.dir)
    if home is None:
        raise UserError(
            f"{remote.url}: this node has no folder for a copy of the index; set data.stage.dir to "
            "one on a local disk that can be written to"
        )
    folder = home / "remote" / key
    path = folder / INDEX_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", {}, wait=True):
        if not path.is_file() or path.stat().st_size != size:
            remove_temporaries(folder)  # of killed processes: we hold the lock
            say(f"{remote.url}/{INDEX_NAME}: fetching {size / 1e6:,.1f} MB, once on this node")
            with atomic_file(path, "the index of the data") as file:
                remote.download(INDEX_NAME, size, file)
    return folder

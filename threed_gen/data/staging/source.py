"""Where the bytes of a data set come from: a copy on this node, its folder, or its URL.

A read takes the staged copy if there is a good one, and else exactly the payload's bytes from where
the shard lies. `counts` says how often each happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from threed_gen.console import say
from threed_gen.data.config import RemoteConfig, StageConfig
from threed_gen.data.index import INDEX_NAME, SHARDS
from threed_gen.data.node_index import own_folder
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.shard import ShardFile, read_member
from threed_gen.data.staging.cache import StagingFolder
from threed_gen.data.staging.fetch import FetchError, Remote, is_url
from threed_gen.data.staging.index_copy import local_index
from threed_gen.data.staging.stager import Stager, copy_file
from threed_gen.errors import UserError

LOCAL = "file://"


class ShardSource:
    """One data set's shards. Cheap to make; may be pickled."""

    def __init__(
        self, path: Path | str, remote: RemoteConfig | None = None, stage: StageConfig | None = None
    ) -> None:
        text = str(path).removeprefix(LOCAL).rstrip("/") or "/"
        self.name = text  # what errors call the data set
        self.remote = Remote(text, remote) if is_url(text) else None
        self.stage = stage or StageConfig()
        self.counts: Counter[str] = Counter()  # staged, direct, staged_damaged: payloads
        self.folder = Path(text) if self.remote is None else local_index(self.remote, self.stage)
        self.staging: StagingFolder | None = None
        if self.stage.dir is not None:
            self.staging = StagingFolder(own_folder(self.stage.dir), int(self.stage.limit_gb * 1e9))

    @property
    def index(self) -> Path:
        """The index: of the folder, or this node's copy of the URL's."""
        return self.folder / INDEX_NAME

    def forget_index(self) -> None:
        """Delete this node's copy of a URL's index, which turned out to be damaged."""
        if self.remote is not None:
            self.index.unlink(missing_ok=True)

    def where(self, shard: str) -> str:
        """The file or URL of a shard, for errors."""
        return f"{self.name}/{SHARDS}/{shard}"

    def check(self, shards: list[ShardFile], cure: str) -> None:
        """UserError if a shard is not there as the index says; at a URL that shows when reading."""
        if self.remote is not None:
            return
        for shard in shards:
            file = self.folder / SHARDS / shard.file
            size = file.stat().st_size if file.exists() else None
            if size != shard.size:
                state = "is missing" if size is None else f"has {size} bytes, not {shard.size}"
                raise UserError(f"{file}: {state}; {cure}")

    def read(self, shard: ShardFile, offset: int, size: int, sha256: str) -> bytes:
        """A payload; CorruptSampleError if it is not what was stored, FetchError from a URL."""
        if self.staging is not None:
            try:
                blob = self.staging.read(shard, offset, size, sha256)
                if blob is not None:
                    self.counts["staged"] += 1
                    return blob
            except CorruptSampleError as err:
                self.counts["staged_damaged"] += 1
                say(f"{self.staging.path(shard)}: a damaged copy is deleted, and made anew ({err})")
                self.staging.drop(shard)
        self.counts["direct"] += 1
        if self.remote is None:
            return read_member(self.folder / SHARDS / shard.file, offset, size, sha256)
        return self.remote.read(f"{SHARDS}/{shard.file}", offset, size, sha256)

    def told(self) -> str:
        """What this process has read, and how often it had to try again: for a line of the log."""
        counts = self.counts if self.remote is None else self.counts + self.remote.counts
        return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))

    def stager(self, shards: list[ShardFile]) -> Stager | None:
        """Begin to stage; None if the config asks for none, or (it says so) its folder is bad."""
        if self.staging is None:
            return None
        try:
            self.staging.folder.mkdir(parents=True, exist_ok=True)
            return Stager(self.staging, shards, _origin(shards), self._copy)
        except (OSError, UserError) as err:
            say(
                f"{self.stage.dir}: shards are not staged but read where they lie ({err}); set "
                "data.stage.dir to a folder on a local disk that can be written to"
            )
            return None

    def _copy(self, shard: ShardFile, file: BinaryIO, between: Callable[[], None]) -> str:
        if self.remote is None:
            return copy_file(self.folder / SHARDS / shard.file, shard.size, file, between)
        name = f"{SHARDS}/{shard.file}"
        size = self.remote.size(name)
        if size != shard.size:
            raise FetchError(
                f"{self.where(shard.file)}: has {size} bytes, not {shard.size}; copy the file to "
                "the server again"
            )
        return self.remote.download(name, size, file, between)


def _origin(shards: list[ShardFile]) -> str:
    """Names a data set by its content."""
    return " ".join(shard.sha256 for shard in shards)

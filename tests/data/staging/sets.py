"""Small data sets of arbitrary payloads: an index, and shards of a few kilobytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from threed_gen.data.index import SHARDS, GridEntry, SampleEntry, ShardIndex
from threed_gen.data.shard import ShardFile, member_name, write_shard


@dataclass(frozen=True)
class MadeSet:
    """A folder, its index, and the payload of each sample."""

    out: Path
    index: ShardIndex
    payloads: list[bytes]

    @property
    def shards(self) -> list[ShardFile]:
        return self.index.shards

    def place(self, i: int) -> tuple[ShardFile, int, int, str]:
        """What `read` takes for sample i."""
        grid = self.index.samples[i].grids[16]
        shard = next(shard for shard in self.shards if shard.file == grid.shard)
        return shard, grid.offset, grid.size, grid.sha256


def make_set(out: Path, shards: int = 4, per_shard: int = 3, size: int = 3000) -> MadeSet:
    """`shards` files of `per_shard` samples each, of random bytes."""
    rng = np.random.default_rng(5)
    files, samples, payloads = [], [], []
    for number in range(shards):
        names = [f"s{number}_{k}" for k in range(per_shard)]
        blobs = [rng.bytes(size + 7 * k) for k in range(per_shard)]
        pairs = [(member_name(n, 16), b) for n, b in zip(names, blobs, strict=True)]
        file, placed = write_shard(out / SHARDS, number, pairs)
        files.append(file)
        payloads += blobs
        for name, blob, at in zip(names, blobs, placed, strict=True):
            digest = hashlib.sha256(blob).hexdigest()
            grid = GridEntry(file.file, at.offset, at.size, digest, 5 + len(samples), 99, 0.25)
            samples.append(entry(name, {16: grid}))
    index = ShardIndex({"source": {"kind": "folder"}}, files, samples)
    index.save(out)
    return MadeSet(out, index, payloads)


def entry(name: str, grids: dict[int, GridEntry], **changes: Any) -> SampleEntry:
    return SampleEntry(name, f"{name}.obj", None, None, "0" * 64, grids, **changes)

"""The last step of `prepare`: payloads of OUT/work become shards, an index and a list of rejects.

What is packed depends on the assets and their payloads alone, in the order of the source, so the
files are the same bytes for any number of workers and any history of interruptions. The index is
written last: it exists only when every shard is in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from threed_gen.console import Progress
from threed_gen.data.build import work_file
from threed_gen.data.index import INDEX_NAME, SHARDS, GridEntry, SampleEntry, ShardIndex
from threed_gen.data.ledger import Outcome
from threed_gen.data.shard import (
    TRAILER,
    Placed,
    ShardFile,
    member_header,
    member_name,
    padded,
    write_shard,
)
from threed_gen.data.sources import Asset
from threed_gen.data.split import split_of
from threed_gen.errors import UserError
from threed_gen.files import remove_temporaries, write_atomically

REJECTS_NAME = "rejects.jsonl"
Row = tuple[Asset, Outcome]


def pack(
    out: Path, rows: Sequence[Row], params: dict[str, Any], shard_bytes: int, held_out: float
) -> ShardIndex:
    """Write OUT/shards and OUT/index.jsonl from the accepted assets `rows`.

    `held_out` is the share of samples that is marked as such.
    """
    folder = out / SHARDS
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    (out / INDEX_NAME).unlink(missing_ok=True)  # from here on it would not describe the shards
    groups = list(_groups(rows, shard_bytes))
    shards: list[ShardFile] = []
    samples: list[SampleEntry] = []
    with Progress(len(rows), "packing", "shape") as bar:
        for number, group in enumerate(groups):
            shard, placed = write_shard(folder, number, _members(out / "work", group, bar))
            shards.append(shard)
            samples += _entries(group, shard, iter(placed), held_out)
    names = {shard.file for shard in shards}
    for old in folder.iterdir():  # left from an earlier, larger set
        if old.name not in names:
            old.unlink()
    index = ShardIndex(params, shards, samples)
    index.save(out)
    return index


def write_rejects(out: Path, rows: Sequence[Row], name: str = REJECTS_NAME) -> None:
    """Write OUT/`name`: a line for each asset that is not good, in the order of the source."""
    lines = [
        {
            "id": asset.id,
            "source": asset.source,
            "status": outcome.status,
            "reason": outcome.reason,
            "message": outcome.message,
        }
        for asset, outcome in rows
        if not outcome.ok
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    content = text.encode("utf-8", "backslashreplace")  # file names that are no UTF-8: \udcXX
    path = out / name
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content, "the list of rejects")


def _groups(rows: Sequence[Row], shard_bytes: int) -> Iterator[list[Row]]:
    """Consecutive assets that fit into one shard together; a large one may exceed it alone."""
    group: list[Row] = []
    filled = len(TRAILER)
    for asset, outcome in rows:
        size = sum(
            len(member_header(member_name(asset.id, resolution), grid.size)) + padded(grid.size)
            for resolution, grid in outcome.grids.items()
        )
        if group and filled + size > shard_bytes:
            yield group
            group, filled = [], len(TRAILER)
        group.append((asset, outcome))
        filled += size
    if group:
        yield group


def _members(work: Path, group: list[Row], bar: Progress) -> Iterator[tuple[str, bytes]]:
    for asset, outcome in group:
        for resolution, grid in sorted(outcome.grids.items()):
            path = work_file(work, asset.source, resolution)
            blob = path.read_bytes()
            if hashlib.sha256(blob).hexdigest() != grid.sha256:
                path.unlink()
                raise UserError(
                    f"{path}: the stored sample of {asset.source} is damaged and was removed; "
                    "run the same command again to rebuild it"
                )
            yield member_name(asset.id, resolution), blob
        bar.advance(note=asset.id)


def _entries(
    group: list[Row], shard: ShardFile, placed: Iterator[Placed], held_out: float
) -> Iterator[SampleEntry]:
    for asset, outcome in group:
        grids = {}
        for resolution, grid in sorted(outcome.grids.items()):
            place = next(placed)
            grids[resolution] = GridEntry(
                shard.file,
                place.offset,
                place.size,
                grid.sha256,
                grid.tokens,
                grid.voxels,
                grid.tau,
            )
        yield entry_of(asset, outcome, grids, held_out)


def entry_of(
    asset: Asset, outcome: Outcome, grids: dict[int, GridEntry], held_out: float
) -> SampleEntry:
    """The line of a sample whose payloads lie at `grids`."""
    return SampleEntry(
        asset.id,
        asset.source,
        asset.family,
        asset.licence,
        outcome.sha256,
        grids,
        flags=outcome.flags,
        tags=dict(asset.tags),
        info=outcome.info,
        split=split_of(asset.id, held_out),
    )


def relabel(out: Path, index: ShardIndex, rows: Sequence[Row], held_out: float) -> ShardIndex:
    """Write the index anew if something has changed that the shards do not hold, a caption say.

    `rows` are the accepted assets, those that the index lists.
    """
    samples = [
        entry_of(asset, outcome, sample.grids, held_out)
        for (asset, outcome), sample in zip(rows, index.samples, strict=True)
    ]
    fresh = ShardIndex(index.params, index.shards, samples)
    if fresh.to_bytes() != index.to_bytes():
        fresh.save(out)
    return fresh

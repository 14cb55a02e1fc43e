"""The last step of the views' stage: waiting pictures become shards and an index.

What is packed depends on the assets and their pictures alone, in the order of the source, so the
files are the same bytes for any number of workers and any history of interruptions. The index is
written last: it exists only when every shard is in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from threed_gen.console import Progress
from threed_gen.data.claim import WORK
from threed_gen.data.ledger import Outcome
from threed_gen.data.shard import (
    TRAILER,
    ShardFile,
    member_header,
    padded,
    write_shard,
)
from threed_gen.data.views.build import ViewTask, work_file
from threed_gen.data.views.index import (
    FOLDER,
    VIEWS_NAME,
    StoredView,
    ViewIndex,
    ViewSample,
    camera_of,
)
from threed_gen.data.views.params import ViewParams
from threed_gen.errors import UserError

REJECTS_NAME = "views_rejects.jsonl"
KIND = "views"  # views-000000.tar
SHARD_BYTES = 1_000_000_000
Row = tuple[ViewTask, Outcome]


def pack_views(out: Path, rows: Sequence[Row], params: ViewParams, shard_bytes: int) -> ViewIndex:
    """Write OUT/views/views-*.tar and OUT/views.jsonl from the assets whose views are good."""
    folder = out / FOLDER
    (out / VIEWS_NAME).unlink(missing_ok=True)  # from here on it would not describe the shards
    shards: list[ShardFile] = []
    samples: list[ViewSample] = []
    with Progress(len(rows), "packing views", "shape") as bar:
        for number, group in enumerate(_groups(rows, shard_bytes)):
            members = _members(folder / WORK, group, bar)
            shard, placed = write_shard(folder, number, members, KIND)
            shards.append(shard)
            places = iter(placed)
            for task, outcome in group:
                views = tuple(
                    StoredView(next(places).offset, size, sha256, camera_of(row))
                    for size, sha256, *row in outcome.info["views"]
                )
                samples.append(
                    ViewSample(
                        task.asset.id,
                        task.asset.source,
                        task.sha256,
                        outcome.flags,
                        shard.file,
                        views,
                    )
                )
    names = {shard.file for shard in shards}
    for old in folder.glob(f"{KIND}-*.tar"):  # left from an earlier, larger set
        if old.name not in names:
            old.unlink()
    index = ViewIndex(params.describe(), shards, samples)
    index.save(out)
    return index


def member_name(sample: str, number: int) -> str:
    """The name under which a picture lies in its shard."""
    return f"{sample}/view_{number:03d}.webp"


def _groups(rows: Sequence[Row], shard_bytes: int) -> Iterator[list[Row]]:
    """Consecutive assets that fit into one shard together; a large one may exceed it alone."""
    group: list[Row] = []
    filled = len(TRAILER)
    for task, outcome in rows:
        size = sum(
            len(member_header(member_name(task.asset.id, number), view[0])) + padded(view[0])
            for number, view in enumerate(outcome.info["views"])
        )
        if group and filled + size > shard_bytes:
            yield group
            group, filled = [], len(TRAILER)
        group.append((task, outcome))
        filled += size
    if group:
        yield group


def _members(work: Path, group: list[Row], bar: Progress) -> Iterator[tuple[str, bytes]]:
    for task, outcome in group:
        path = work_file(work, task.asset.source)
        blob = memoryview(path.read_bytes())
        for number, (size, sha256, *_) in enumerate(outcome.info["views"]):
            part, blob = bytes(blob[:size]), blob[size:]
            if hashlib.sha256(part).hexdigest() != sha256:
                path.unlink()
                raise UserError(
                    f"{path}: the stored views of {task.asset.source} are damaged and were "
                    "removed; run the same command again to draw them anew"
                )
            yield member_name(task.asset.id, number), part
        bar.advance(note=task.asset.id)

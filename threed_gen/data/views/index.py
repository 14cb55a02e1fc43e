"""`OUT/views.jsonl`: which pictures there are of each sample, and where they lie.

A table as in `data/table.py`: line 2 holds the parameters and the list of shards, each further line
is one sample. A line begins with the sample's id, so that a reader finds it without parsing it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from threed_gen.data.shard import ShardFile
from threed_gen.data.table import MISFITS, parse_table, table_bytes
from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.render.camera import Camera

FORMAT = "threed-gen views"
VERSION = 1
VIEWS_NAME = "views.jsonl"
FOLDER = "views"  # beside the index: the shards, and what the stage needs


class DamagedViewsError(UserError):
    """The index is not what was written; `prepare` can write it anew."""


@dataclass(frozen=True)
class StoredView:
    """One picture: where it lies in its shard (or before packing in its file), and its camera."""

    offset: int
    size: int
    sha256: str  # of the stored bytes
    camera: Camera


@dataclass(frozen=True)
class ViewSample:
    """The pictures of one sample; all of them are in one shard."""

    id: str
    source: str
    source_sha256: str
    flags: tuple[str, ...]  # of PAINT_FLAGS
    shard: str
    views: tuple[StoredView, ...]


@dataclass(frozen=True)
class ViewIndex:
    """The whole table. `params` are those of the views."""

    params: dict[str, Any]
    shards: list[ShardFile]
    samples: list[ViewSample]

    def save(self, out: Path) -> None:
        """Write the index in one step."""
        write_atomically(out / VIEWS_NAME, self.to_bytes(), "the index of views")

    def to_bytes(self) -> bytes:
        """The file's content; equal tables give equal bytes."""
        whole = {"params": self.params, "shards": [asdict(shard) for shard in self.shards]}
        return table_bytes(FORMAT, VERSION, whole, map(_row, self.samples), first_key="id")

    @staticmethod
    def load(out: Path) -> ViewIndex:
        """Read and check OUT/views.jsonl; UserError names the file, the fault and the cure."""
        path = out / VIEWS_NAME
        try:
            whole, rows = parse_table(
                path.read_bytes(), str(path), FORMAT, VERSION, partial(damaged, path)
            )
            shards = [ShardFile(s["file"], s["size"], s["sha256"]) for s in whole["shards"]]
            return ViewIndex(whole["params"], shards, [sample_of(row) for row in rows])
        except MISFITS as err:
            raise damaged(path, f"{type(err).__name__}: {err}") from err


def damaged(path: Path, problem: str) -> DamagedViewsError:
    """The error of an index that is not what was written."""
    return DamagedViewsError(
        f"{path}: the index of views is damaged ({problem}); restore it, or delete it and run "
        "`threed-gen prepare` with the same arguments again, which writes it anew"
    )


def camera_row(camera: Camera) -> list[Any]:
    """A camera as JSON: eye, target, field of view."""
    return [list(camera.eye), list(camera.target), camera.fov]


def camera_of(row: list[Any]) -> Camera:
    """The camera of a row."""
    (ex, ey, ez), (tx, ty, tz), fov = row
    return Camera((float(ex), float(ey), float(ez)), (float(tx), float(ty), float(tz)), float(fov))


def sample_of(row: dict[str, Any]) -> ViewSample:
    """A line of the index; ValueError, KeyError or TypeError if it is none."""
    views = tuple(
        StoredView(
            int(view["offset"]),
            int(view["size"]),
            str(view["sha256"]),
            camera_of([view["eye"], view["target"], view["fov"]]),
        )
        for view in row["views"]
    )
    return ViewSample(
        str(row["id"]),
        str(row["source"]),
        str(row["source_sha256"]),
        tuple(row["flags"]),
        str(row["shard"]),
        views,
    )


def _row(sample: ViewSample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "source": sample.source,
        "source_sha256": sample.source_sha256,
        "flags": list(sample.flags),
        "shard": sample.shard,
        "views": [
            {
                "offset": view.offset,
                "size": view.size,
                "sha256": view.sha256,
                "eye": list(view.camera.eye),
                "target": list(view.camera.target),
                "fov": view.camera.fov,
            }
            for view in sample.views
        ],
    }

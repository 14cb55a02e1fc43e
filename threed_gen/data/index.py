"""The index: one text file that lists every sample, enough to plan an epoch without a shard.

`OUT/index.jsonl`: line 1 says what the file is and carries the sha256 of all that follows; line 2
holds the parameters and the list of shards; each further line is one sample. Columns that this
version does not know are ignored; a newer version is refused by name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from threed_gen.data.shard import ShardFile
from threed_gen.data.split import Split
from threed_gen.data.table import MISFITS, parse_table, table_bytes, typed
from threed_gen.errors import UserError
from threed_gen.files import write_atomically

FORMAT = "threed-gen index"
VERSION = 1
INDEX_NAME = "index.jsonl"
SHARDS = "shards"  # folder beside the index


class DamagedIndexError(UserError):
    """The index is not what was written; `prepare` can write it anew."""


@dataclass(frozen=True)
class GridEntry:
    """One stored resolution of a sample."""

    shard: str  # file name in OUT/shards
    offset: int  # of the payload in the shard, bytes
    size: int  # bytes
    sha256: str  # of the payload
    tokens: int  # active bricks = latent tokens
    voxels: int  # band voxels
    tau: float  # truncation in unit-cube units


@dataclass(frozen=True)
class SampleEntry:
    """One asset: where it came from and where its grids lie."""

    id: str
    source: str  # path below the prepared folder, or `procedural/<name>`
    family: str | None
    licence: str | None
    source_sha256: str
    grids: dict[int, GridEntry]  # by resolution
    flags: tuple[str, ...] = ()  # what was found while reading the file: "skinned" …
    tags: dict[str, str | float | None] = field(default_factory=dict)  # a table's: caption …
    info: dict[str, Any] = field(default_factory=dict)  # repairs, signs and fidelity, in numbers
    split: Split = "train"


@dataclass(frozen=True)
class ShardIndex:
    """The whole table. `params` are those of `prepare`."""

    params: dict[str, Any]
    shards: list[ShardFile]
    samples: list[SampleEntry]
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = {shard.file: number for number, shard in enumerate(self.shards)}
        object.__setattr__(self, "_numbers", numbers)

    def shard_number(self, sample: int, resolution: int) -> int:
        """Position in `shards` of the shard that holds a sample's grid."""
        return self._numbers[self.samples[sample].grids[resolution].shard]

    @property
    def resolutions(self) -> list[int]:
        """The stored resolutions, ascending (all samples have all of them)."""
        return sorted(self.samples[0].grids) if self.samples else []

    def save(self, data_dir: Path) -> None:
        """Write the index in one step."""
        write_atomically(data_dir / INDEX_NAME, self.to_bytes(), "the index")

    def to_bytes(self) -> bytes:
        """The file's content; equal tables give equal bytes."""
        table = {"params": self.params, "shards": [asdict(shard) for shard in self.shards]}
        return table_bytes(FORMAT, VERSION, table, map(_row, self.samples))

    @staticmethod
    def load(data_dir: Path) -> ShardIndex:
        """Read and check OUT/index.jsonl; UserError names the file, the fault and the cure."""
        path = data_dir / INDEX_NAME
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make the data with `threed-gen prepare SOURCE {data_dir}`"
            )
        return parse_index(path.read_bytes(), str(path))


def parse_index(content: bytes, name: str) -> ShardIndex:
    """The index in `content`; `name` is what errors call it."""
    try:
        table, rows = parse_table(
            content, name, FORMAT, VERSION, lambda problem: damaged(name, problem)
        )
        shards = [ShardFile(s["file"], s["size"], s["sha256"]) for s in table["shards"]]
        index = ShardIndex(table["params"], shards, [sample_of(row) for row in rows])
        known = {shard.file for shard in shards}
        if any(grid.shard not in known for s in index.samples for grid in s.grids.values()):
            raise damaged(name, "a sample lies in a shard that is not listed")
        return index
    except MISFITS as err:
        raise damaged(name, f"{type(err).__name__}: {err}") from err


def damaged(name: str, problem: str) -> DamagedIndexError:
    """The error for a problem in the index that errors call `name`."""
    return DamagedIndexError(
        f"{name}: the index is damaged ({problem}); restore it, or run `threed-gen prepare` again "
        "with the same arguments, which writes it anew"
    )


def _row(sample: SampleEntry) -> dict[str, Any]:
    row = asdict(sample)
    row["grids"] = {str(resolution): asdict(grid) for resolution, grid in sample.grids.items()}
    return row


def sample_of(row: dict[str, Any]) -> SampleEntry:
    """The sample of one line; one of `MISFITS` where it is not what a line holds."""
    return SampleEntry(
        id=typed(row, "id", str),
        source=typed(row, "source", str),
        family=typed(row, "family", str, type(None)),
        licence=typed(row, "licence", str, type(None)),
        source_sha256=typed(row, "source_sha256", str),
        grids={int(key): _grid(grid) for key, grid in sorted(row["grids"].items(), key=_number)},
        flags=tuple(row["flags"]),
        # Indexes of earlier versions do not have these.
        tags=typed({"tags": {}, **row}, "tags", dict),
        info=typed({"info": {}, **row}, "info", dict),
        split=_split(row.get("split", "train")),
    )


def _split(name: Any) -> Split:
    if name not in ("train", "held_out"):
        raise ValueError(f"'split' should be train or held_out, not {name!r}")
    found: Split = name
    return found


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _grid(row: dict[str, Any]) -> GridEntry:
    return GridEntry(
        shard=typed(row, "shard", str),
        offset=typed(row, "offset", int),
        size=typed(row, "size", int),
        sha256=typed(row, "sha256", str),
        tokens=typed(row, "tokens", int),
        voxels=typed(row, "voxels", int),
        tau=typed(row, "tau", float),
    )

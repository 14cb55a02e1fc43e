"""The index of encoded latents, `OUT/latents.jsonl`: every sample, and whose latents these are.

Line 1 and the rest are as in `data/table.py`. Line 2 holds the parameters of `encode`, statistics
of all tokens, the samples that were rejected, and the shards; each further line is one sample.
Whatever does not depend on the weights, the data set has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threed_gen.data.latents.latent import Reject
from threed_gen.data.latents.payload import Store, Values
from threed_gen.data.latents.statistics import LatentStatistics, Moments
from threed_gen.data.shard import ShardFile
from threed_gen.data.table import MISFITS, Row, parse_table, table_bytes, typed
from threed_gen.errors import UserError
from threed_gen.files import write_atomically

FORMAT = "threed-gen latents"
VERSION = 1
INDEX_NAME = "latents.jsonl"
SHARDS = "latents"  # folder beside the index


@dataclass(frozen=True)
class LatentParams:
    """Everything that the bytes of the shards depend on, beside `run` and `data`, for people."""

    run: str  # name of the SS-VAE's run directory
    step: int  # of its checkpoint
    weights: str  # "ema" or "model"
    weights_sha256: str
    data: str  # folder of the samples, as given
    source_sha256: str  # of that folder's index.jsonl
    filter: dict[str, Any]  # rules that left samples out before
    tau: float | None  # as in `SDFDataset`
    store: Store
    values: Values
    channels: int
    resolutions: tuple[int, ...]  # ascending
    shard_bytes: int

    def identity(self) -> dict[str, Any]:
        """What has to be equal for two encodings to give the same bytes."""
        return {key: value for key, value in asdict(self).items() if key not in ("run", "data")}


@dataclass(frozen=True)
class LatentEntry:
    """One resolution of a sample."""

    shard: str  # file name in OUT/latents
    offset: int  # of the payload in the shard, bytes
    size: int  # bytes
    sha256: str  # of the payload
    tokens: int
    moments: str  # of its channels, `Moments.to_text`: statistics of any part of the set are exact


@dataclass(frozen=True)
class LatentSample:
    """One sample at all resolutions of the encoding."""

    id: str
    grids: dict[int, LatentEntry]  # by resolution


@dataclass(frozen=True)
class LatentIndex:
    """The whole table."""

    params: LatentParams
    shards: list[ShardFile]
    samples: list[LatentSample]
    rejects: list[Reject]

    @property
    def tokens(self) -> int:
        """Of all samples at all resolutions."""
        return sum(grid.tokens for sample in self.samples for grid in sample.grids.values())

    def moments(self, sample: LatentSample, resolution: int) -> Moments:
        """Of one sample at one resolution; ValueError if they are no such numbers."""
        grid = sample.grids[resolution]
        return Moments.from_text(grid.moments, grid.tokens, self.params.channels)

    def to_bytes(self) -> bytes:
        """The file's content; equal tables give equal bytes."""
        # Each sample's resolutions ascending, sample by sample: the one order of all statistics.
        moments = [self.moments(s, r) for s in self.samples for r in sorted(s.grids)]
        draws = ("mode", "sample") if self.params.store == "posterior" else ("mode",)
        whole = {
            "params": asdict(self.params),
            "statistics": {
                draw: LatentStatistics.of(moments, draw).to_json()  # type: ignore[arg-type]
                for draw in draws
            },
            "rejects": [asdict(reject) for reject in self.rejects],
            "shards": [asdict(shard) for shard in self.shards],
        }
        return table_bytes(FORMAT, VERSION, whole, map(row_of, self.samples))

    def save(self, out: Path) -> None:
        """Write the index in one step."""
        write_atomically(out / INDEX_NAME, self.to_bytes(), "the index of the latents")

    @staticmethod
    def load(out: Path) -> LatentIndex:
        """Read and check OUT/latents.jsonl; UserError names the file, the fault and the cure."""
        path = out / INDEX_NAME
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make the latents with `threed-gen encode RUN DATA --out "
                f"{out}`, and let it finish"
            )
        return parse_index(path.read_bytes(), str(path))


def parse_index(content: bytes, name: str) -> LatentIndex:
    """The index in `content`; `name` is what errors call it."""

    def damaged(problem: str) -> UserError:
        return UserError(
            f"{name}: the index is damaged ({problem}); delete it and run the same `threed-gen "
            "encode` again, which writes it anew"
        )

    try:
        whole, rows = parse_table(content, name, FORMAT, VERSION, damaged)
        shards = [ShardFile(s["file"], s["size"], s["sha256"]) for s in whole["shards"]]
        rejects = [Reject(r["id"], r["reason"], r["message"]) for r in whole["rejects"]]
        index = LatentIndex(
            params_of(whole["params"]), shards, [sample_of(row) for row in rows], rejects
        )
        known = {shard.file for shard in shards}
        if any(grid.shard not in known for s in index.samples for grid in s.grids.values()):
            raise damaged("a sample lies in a shard that is not listed")
        return index
    except MISFITS as err:
        raise damaged(f"{type(err).__name__}: {err}") from err


def params_of(row: Row) -> LatentParams:
    """The parameters that `asdict` made into `row`, perhaps by way of JSON."""
    return LatentParams(
        run=typed(row, "run", str),
        step=typed(row, "step", int),
        weights=typed(row, "weights", str),
        weights_sha256=typed(row, "weights_sha256", str),
        data=typed(row, "data", str),
        source_sha256=typed(row, "source_sha256", str),
        filter=typed(row, "filter", dict),
        tau=typed(row, "tau", float, type(None)),
        store=typed(row, "store", str),
        values=typed(row, "values", str),
        channels=typed(row, "channels", int),
        resolutions=tuple(int(resolution) for resolution in row["resolutions"]),
        shard_bytes=typed(row, "shard_bytes", int),
    )


def row_of(sample: LatentSample) -> Row:
    """A sample as one object of JSON."""
    grids = {str(resolution): asdict(grid) for resolution, grid in sorted(sample.grids.items())}
    return {"id": sample.id, "grids": grids}


def sample_of(row: Row) -> LatentSample:
    """What `row_of` made."""
    grids = {
        int(resolution): LatentEntry(
            shard=typed(grid, "shard", str),
            offset=typed(grid, "offset", int),
            size=typed(grid, "size", int),
            sha256=typed(grid, "sha256", str),
            tokens=typed(grid, "tokens", int),
            moments=typed(grid, "moments", str),
        )
        for resolution, grid in row["grids"].items()
    }
    return LatentSample(typed(row, "id", str), dict(sorted(grids.items())))

"""One part of an encoding: a shard, and beside it a small file that says what is in it.

The parts follow one another through the data set. A part counts when its `.json` is whole, was
made with the same parameters, begins where the part before ended, and its shard has the right
size; the `.json` is written after the shard. So a killed `encode` goes on after the last whole
part, and a shard that is deleted is made again alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from threed_gen.data.latents.index import (
    LatentEntry,
    LatentParams,
    LatentSample,
    params_of,
    row_of,
    sample_of,
)
from threed_gen.data.latents.latent import Reject
from threed_gen.data.shard import (
    TRAILER,
    ShardFile,
    member_header,
    padded,
    shard_name,
    write_shard,
)
from threed_gen.data.table import MISFITS, parse_table, table_bytes
from threed_gen.errors import UserError
from threed_gen.files import write_atomically

FORMAT = "threed-gen latents part"
VERSION = 1


@dataclass(frozen=True)
class Packed:
    """One sample as it will be stored: by resolution, its payload, tokens and moments."""

    id: str
    payloads: dict[int, bytes]
    tokens: dict[int, int]
    moments: dict[int, str]

    def size(self) -> int:
        """Bytes that it takes in a shard."""
        return sum(
            len(member_header(latent_name(self.id, resolution), len(blob))) + padded(len(blob))
            for resolution, blob in self.payloads.items()
        )


@dataclass(frozen=True)
class Part:
    """Samples `start` to `stop` of the data set, those with a latent in `shard`."""

    start: int
    stop: int
    shard: ShardFile
    samples: list[LatentSample]
    rejects: list[Reject]


def latent_name(sample: str, resolution: int) -> str:
    """The name under which a sample's latent lies in its shard."""
    return f"{sample}/r{resolution}.latent.zst"


class Filling:
    """What will be the next part."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.packed: list[Packed] = []
        self.rejects: list[Reject] = []
        self.filled = len(TRAILER)

    def has_room(self, sample: Packed, shard_bytes: int) -> bool:
        """Whether the sample still belongs here; one that is too large has a shard to itself."""
        return not self.packed or self.filled + sample.size() <= shard_bytes

    def add(self, sample: Packed) -> None:
        self.packed.append(sample)
        self.filled += sample.size()

    def write(self, folder: Path, number: int, stop: int, params: LatentParams) -> Part:
        """Write the shard, and then what makes it count."""
        members = [
            (latent_name(sample.id, resolution), blob)
            for sample in self.packed
            for resolution, blob in sample.payloads.items()
        ]
        shard, placed = write_shard(folder, number, members)
        places = iter(placed)
        samples = []
        for sample in self.packed:
            grids = {}
            for resolution, blob in sample.payloads.items():
                place = next(places)
                grids[resolution] = LatentEntry(
                    shard.file,
                    place.offset,
                    place.size,
                    hashlib.sha256(blob).hexdigest(),
                    sample.tokens[resolution],
                    sample.moments[resolution],
                )
            samples.append(LatentSample(sample.id, grids))
        part = Part(self.start, stop, shard, samples, self.rejects)
        whole = {
            "params": asdict(params),
            "start": part.start,
            "stop": part.stop,
            "shard": asdict(shard),
            "rejects": [asdict(reject) for reject in part.rejects],
        }
        content = table_bytes(FORMAT, VERSION, whole, map(row_of, samples))
        write_atomically(part_file(folder, number), content, "the list of a shard")
        return part


def part_file(folder: Path, number: int) -> Path:
    """`shard-000000.json` beside `shard-000000.tar`."""
    return (folder / shard_name(number)).with_suffix(".json")


def read_part(folder: Path, number: int, params: LatentParams, start: int) -> Part | None:
    """Part `number` if it is whole and begins at sample `start`; errors of `whole_part`."""
    part = whole_part(folder, number, params)
    return part if part is not None and part.start == start else None


def parts_found(folder: Path) -> list[int]:
    """The numbers of all parts that have a list, whole or not."""
    found = [path.stem.removeprefix("shard-") for path in folder.glob("shard-*.json")]
    return sorted(int(number) for number in found if number.isdecimal())


def whole_part(folder: Path, number: int, params: LatentParams) -> Part | None:
    """Part `number` if it is whole.

    Raises:
        UserError: it was made with other parameters.
    """
    path = part_file(folder, number)
    try:
        whole, rows = parse_table(path.read_bytes(), str(path), FORMAT, VERSION, UserError)
        old = params_of(whole["params"])
        shard = ShardFile(**whole["shard"])
        samples = [sample_of(row) for row in rows]
        rejects = [Reject(**row) for row in whole["rejects"]]
        part = Part(int(whole["start"]), int(whole["stop"]), shard, samples, rejects)
    except (FileNotFoundError, UserError, *MISFITS):
        return None  # it is made again
    refuse_others(folder, old, params)
    file = folder / shard.file
    return part if file.is_file() and file.stat().st_size == shard.size else None


def refuse_others(folder: Path, old: LatentParams, new: LatentParams) -> None:
    """UserError that names the first parameter in which `new` differs from `old`."""
    before = old.identity()
    for key, value in new.identity().items():
        if before[key] != value:
            raise UserError(
                f"{folder}: was encoded with {key} = {_told(before[key])}, now it is "
                f"{_told(value)}; choose another --out, or delete that folder and encode again"
            )


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(
        value, str
    ) else str(value)  # fmt: skip

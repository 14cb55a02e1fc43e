"""The index as columns: read line by line once per node, mapped by everyone, never held whole.

`rows` are the lines of the samples as they stand in index.jsonl, so that `entry` is exact; what is
asked of all samples at once has a column of its own. Conversion holds a few thousand lines at a
time. Its errors are those of `parse_index`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from threed_gen.data.columns import Array, Columns, ColumnWriter
from threed_gen.data.filter import worst_share
from threed_gen.data.index import FORMAT, VERSION, SampleEntry, damaged, sample_of
from threed_gen.data.shard import ShardFile
from threed_gen.data.table import MISFITS, check_head
from threed_gen.data.tags import is_set
from threed_gen.errors import UserError

LAYOUT = 1  # of the columns below; another number makes them anew
CHUNK = 4096  # lines that are held at once
PIECE = 1 << 20  # bytes that are hashed at once
SPLITS = ("train", "held_out")
SHARES = ("sheet_share", "interior_share")
SPARED = ("rows",)  # the large one: `row_of` compares each row that is used


def convert(file: BinaryIO, name: str, writer: ColumnWriter) -> None:
    """Read an index from its beginning into columns; errors call it `name`.

    Raises:
        DamagedIndexError: it is not what was written.
        UserError: a newer version wrote it.
    """
    try:
        count, whole = _head(file, name)
        names = [ShardFile(s["file"], s["size"], s["sha256"]).file for s in whole["shards"]]
        writer.write("whole", _bytes(json.dumps(whole).encode()))
        table = _Table({shard: number for number, shard in enumerate(names)}, name)
        while lines := list(islice(file, CHUNK)):
            table.add(lines, writer)
        if table.count != count:
            raise damaged(name, f"it should list {count} samples, not {table.count}")
        table.finish(writer)
    except (*MISFITS, OverflowError) as err:  # a number beyond 64 bits
        raise damaged(name, f"{type(err).__name__}: {err}") from err


def _head(file: BinaryIO, name: str) -> tuple[int, dict[str, Any]]:
    """Samples that line 1 promises, and the object of line 2; the checksum is compared."""
    first, digest = file.readline(), hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)

    def problem(text: str) -> UserError:
        return damaged(name, text)

    count = check_head(first, digest.hexdigest(), name, FORMAT, VERSION, problem)
    file.seek(len(first))
    whole = json.loads(file.readline().decode())
    if "params" not in whole:
        raise KeyError("params")
    return count, whole


class _Table:
    """Turns lines into columns and remembers where the long ones have got to."""

    def __init__(self, shards: dict[str, int], name: str) -> None:
        self.shards, self.name = shards, name
        self.resolutions: list[int] | None = None
        self.licences: dict[str, int] = {}
        self.flags: dict[str, int] = {}
        self.count = 0
        self.ends = {"rows_end": 0, "ids_end": 0, "flags_end": 0}

    def add(self, lines: list[bytes], writer: ColumnWriter) -> None:
        samples = [sample_of(json.loads(text.decode())) for text in lines]
        if self.resolutions is None:
            self.resolutions = sorted(samples[0].grids)
        ids = [sample.id.encode("utf-8", "surrogatepass") for sample in samples]
        flags = [self._flags(sample) for sample in samples]
        writer.write("rows", _bytes(b"".join(lines)))
        writer.write("rows_crc", np.array([zlib.crc32(text) for text in lines], np.uint32))
        writer.write("ids", _bytes(b"".join(ids)))
        writer.write("flags", np.array([code for codes in flags for code in codes], np.int32))
        for name, parts in (("rows_end", lines), ("ids_end", ids), ("flags_end", flags)):
            ends = self.ends[name] + np.cumsum([len(part) for part in parts], dtype=np.int64)
            writer.write(name, ends)
            self.ends[name] = int(ends[-1])
        writer.write("split", np.array([SPLITS.index(s.split) for s in samples], np.uint8))
        writer.write("licence", np.array([self._licence(s.licence) for s in samples], np.int32))
        scores = [s.tags.get("score") for s in samples]
        known = [isinstance(score, (int, float)) for score in scores]
        writer.write("has_score", np.array(known))
        writer.write("score", np.array([_float(score) for score in scores], np.float64))
        for share in SHARES:
            worst = [worst_share(sample, share) for sample in samples]
            writer.write(f"has_{share}", np.array([value is not None for value in worst]))
            writer.write(share, np.array([value or 0.0 for value in worst], np.float64))
        for resolution in self.resolutions:
            self._grids(samples, resolution, writer)
        self.count += len(lines)

    def _grids(self, samples: list[SampleEntry], resolution: int, writer: ColumnWriter) -> None:
        for sample in samples:
            if resolution not in sample.grids:
                raise damaged(self.name, f"sample '{sample.id}' lacks resolution {resolution}")
            if any(grid.shard not in self.shards for grid in sample.grids.values()):
                raise damaged(self.name, "a sample lies in a shard that is not listed")
        grids = [sample.grids[resolution] for sample in samples]
        numbers = {
            "shard": [self.shards[grid.shard] for grid in grids],
            "tokens": [grid.tokens for grid in grids],
            "size": [grid.size for grid in grids],
        }
        for kind, values in numbers.items():
            writer.write(f"{kind}-{resolution}", np.array(values, np.int64))

    def finish(self, writer: ColumnWriter) -> None:
        """Write what is known at the end."""
        names = {
            "resolutions": self.resolutions or [],
            "licences": list(self.licences),  # by code - 1; code 0: none is known
            "flags": list(self.flags),  # by code
        }
        writer.write("names", _bytes(json.dumps(names).encode()))

    def _licence(self, licence: str | None) -> int:
        if licence is None:
            return 0
        return self.licences.setdefault(licence, len(self.licences) + 1)

    def _flags(self, sample: SampleEntry) -> list[int]:
        """Everything that `exclude_flags` may name."""
        found = [flag for flag in sample.flags if isinstance(flag, str)]
        found += [name for name, tag in sample.tags.items() if is_set(tag)]
        return [self.flags.setdefault(flag, len(self.flags)) for flag in dict.fromkeys(found)]


def count_of(columns: Columns) -> int:
    """Samples of the index."""
    return len(columns["split"]) if "split" in columns else 0


def names_of(columns: Columns) -> dict[str, list[Any]]:
    """The stored resolutions, the licences (by code - 1) and the flags (by code)."""
    names: dict[str, list[Any]] = json.loads(columns["names"].tobytes())
    return names


def row_of(columns: Columns, i: int) -> SampleEntry:
    """The sample of line i; UserError if the columns' file was damaged since it was made."""
    ends = columns["rows_end"]
    text = columns.part("rows", int(ends[i - 1]) if i else 0, int(ends[i]))
    if zlib.crc32(text) != columns["rows_crc"][i]:
        raise UserError(
            f"{columns.path}: this copy of an index was damaged (sample {i}); delete the file and "
            "start again, which makes it anew"
        )
    return sample_of(json.loads(text))


def ids_of(columns: Columns) -> Iterator[str]:
    """The ids of all samples, in their order, without a list of them."""
    ids, ends = columns["ids"], columns["ids_end"]
    for start in range(0, len(ends), CHUNK):
        some = ends[max(start - 1, 0) : start + CHUNK].tolist()
        if start == 0:
            some = [0, *some]
        block = ids[some[0] : some[-1]].tobytes()
        for a, b in zip(some[:-1], some[1:], strict=True):
            yield block[a - some[0] : b - some[0]].decode("utf-8", "surrogatepass")


def _bytes(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8)


def _float(score: Any) -> float:
    """A score as the filter compares it."""
    if not isinstance(score, (int, float)):
        return 0.0
    try:
        return float(score)
    except OverflowError:  # an integer of more than 308 digits
        return float("inf") if score > 0 else float("-inf")

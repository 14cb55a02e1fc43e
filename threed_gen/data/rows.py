"""The index as a data set shows it: the table of `ShardIndex`, its rows made when they are asked.

A choice of samples is a list of their numbers, kept once per node as the columns are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from threed_gen.data.column_filter import choose
from threed_gen.data.column_index import count_of, ids_of, names_of, row_of
from threed_gen.data.columns import Columns
from threed_gen.data.config import FilterConfig
from threed_gen.data.filter import NothingLeftError
from threed_gen.data.index import SampleEntry, ShardIndex
from threed_gen.data.node_index import derived
from threed_gen.data.shard import ShardFile

Ints = NDArray[np.int64]


class Rows(Sequence[SampleEntry]):
    """The chosen samples of an index; each access reads one line."""

    def __init__(self, columns: Columns, chosen: Columns | None = None) -> None:
        self.columns, self.chosen = columns, chosen  # chosen["kept"]: their numbers; None: all
        self._derived: dict[str, Columns] = {}

    def __len__(self) -> int:
        return count_of(self.columns) if self.chosen is None else len(self.chosen["kept"])

    @overload
    def __getitem__(self, i: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, i: slice) -> list[SampleEntry]: ...
    def __getitem__(self, i: int | slice) -> SampleEntry | list[SampleEntry]:
        numbers = range(len(self))[i]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return row_of(self.columns, self.line(numbers))

    def line(self, i: int) -> int:
        """The number of chosen sample i in the whole index."""
        return i if self.chosen is None else int(self.chosen["kept"][i])

    def ids(self) -> Iterator[str]:
        """The ids alone, many times faster than by the rows."""
        if self.chosen is None:
            yield from ids_of(self.columns)
            return
        kept, at = self.chosen["kept"], 0
        for number, name in enumerate(ids_of(self.columns)):
            if at < len(kept) and kept[at] == number:
                at += 1
                yield name

    def column(self, name: str) -> Ints:
        """`tokens-64`, `size-64` or `shard-64` of the chosen samples, as a mapped array."""
        if self.chosen is None:
            return self.columns[name]
        kept = self.chosen["kept"]
        return self.derived(name, lambda: self.columns[name][kept])

    def derived(self, name: str, make: Callable[[], Ints]) -> Ints:
        """What `make` returns, made once per node for these samples."""
        if name not in self._derived:
            in_memory = self.chosen is not None and self.chosen.path is None
            base = Columns({}) if in_memory else self.columns
            of = "" if self.chosen is None else f" of {self.chosen.key}"
            self._derived[name] = derived(base, f"{name}{of}", lambda: {"values": make()})
        return self._derived[name]["values"]


class ColumnIndex:
    """What `ShardIndex` offers, without holding the samples."""

    def __init__(self, columns: Columns, chosen: Columns | None = None) -> None:
        self.samples = Rows(columns, chosen)
        whole = json.loads(columns["whole"].tobytes())
        self.params: dict[str, Any] = whole["params"]
        self.shards = [ShardFile(s["file"], s["size"], s["sha256"]) for s in whole["shards"]]
        self._shards = {shard.file: shard for shard in self.shards}
        self.resolutions: list[int] = names_of(columns)["resolutions"]  # ascending
        self.first: SampleEntry | None = self.samples[0] if len(self.samples) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ColumnIndex):
            return NotImplemented
        same = (self.params, self.shards) == (other.params, other.shards)
        return same and list(self.samples) == list(other.samples)

    __hash__ = None  # type: ignore[assignment]

    def shard_number(self, sample: int, resolution: int) -> int:
        """Position in `shards` of the shard that holds a sample's grid."""
        return int(self.samples.columns[f"shard-{resolution}"][self.samples.line(sample)])

    def shard(self, file: str) -> ShardFile:
        """The shard of this name."""
        return self._shards[file]

    def filtered(self, rules: FilterConfig, path: Path | str) -> tuple[ColumnIndex, dict[str, int]]:
        """The samples that pass, and how many each rule left out; errors name `path`.

        Raises NothingLeftError when none passes.
        """
        columns = self.samples.columns
        assert self.samples.chosen is None, "rules apply to the whole index"

        def make() -> dict[str, Any]:
            kept, left_out = choose(columns, rules, path)
            text = json.dumps(left_out).encode()
            return {"kept": kept, "left_out": np.frombuffer(text, np.uint8)}

        chosen = derived(columns, f"filter {rules.model_dump_json()}", make)
        return ColumnIndex(columns, chosen), json.loads(chosen["left_out"].tobytes())

    def only(self, ids: Collection[str]) -> ColumnIndex:
        """The samples among `ids`; NothingLeftError when there are none."""
        rows = self.samples
        hits = (i for i, name in enumerate(rows.ids()) if name in ids)
        kept = np.fromiter(hits, np.int64)
        if not len(kept):
            raise NothingLeftError("no sample is left")
        if rows.chosen is not None:
            kept = rows.chosen["kept"][kept]
        name = f"only {hashlib.sha256(kept.tobytes()).hexdigest()}"
        return ColumnIndex(rows.columns, derived(rows.columns, name, lambda: {"kept": kept}))

    def save(self, data_dir: Path) -> None:
        """Write an index of these samples in one step."""
        ShardIndex(self.params, self.shards, list(self.samples)).save(data_dir)

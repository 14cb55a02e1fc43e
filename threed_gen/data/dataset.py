"""Reading prepared samples: the index, and any sample at any resolution it can give.

A read is one `pread` in a shard, checked against the sha256 of the index and validated while it
is decoded, so a damaged sample is named and never trained on.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from dataclasses import replace
from pathlib import Path

from threed_gen.data.config import FilterConfig
from threed_gen.data.filter import NothingLeftError, filtered
from threed_gen.data.index import INDEX_NAME, SHARDS, GridEntry, SampleEntry, ShardIndex
from threed_gen.data.payload import CorruptSampleError, decode_payload
from threed_gen.data.resample import check_resample, resample
from threed_gen.data.shard import read_member
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import SparseSDF, default_tau


class SDFDataset:
    """The samples of a folder made by `prepare`. Cheap to open; safe to use in several processes.

    `tau` (unit-cube units) is the truncation that `load` shall give; None takes what is stored,
    or each resolution's default where it has to resample. `rules` leave samples out; numbers of
    samples, `index` and everything else here then refer to those that are left, and `left_out`
    counts the others by rule.
    """

    def __init__(
        self, path: Path, tau: float | None = None, rules: FilterConfig | None = None
    ) -> None:
        self.path, self.tau, self.rules = path, tau, rules or FilterConfig()
        self.left_out: dict[str, int] = {}
        self.index = ShardIndex.load(path)
        if not self.index.samples:
            raise UserError(f"{path / INDEX_NAME}: lists no samples; prepare some meshes")
        for shard in self.index.shards:
            file = path / SHARDS / shard.file
            size = file.stat().st_size if file.exists() else None
            if size != shard.size:
                state = "is missing" if size is None else f"has {size} bytes, not {shard.size}"
                raise UserError(f"{file}: {state}; {self._cure()}")
        if self.rules != FilterConfig():
            samples, self.left_out = filtered(self.index.samples, self.rules, path / INDEX_NAME)
            self.index = replace(self.index, samples=samples)

    def for_validation(self) -> SDFDataset:
        """What is held out from a `train` split; itself if there is no split, or nothing in it."""
        if self.rules.split != "train":
            return self
        held_out = self.rules.model_copy(update={"split": "held_out"})
        try:
            return SDFDataset(self.path, self.tau, held_out)
        except NothingLeftError:
            return self

    def only(self, ids: Collection[str], rule: str) -> SDFDataset:
        """The samples among `ids`; the others count in `left_out` under the name `rule`.

        Raises NothingLeftError when none is left.
        """
        kept = [sample for sample in self.index.samples if sample.id in ids]
        if not kept:
            raise NothingLeftError(f"{self.path}: every sample is left out ({rule})")
        result = copy(self)
        result.index = replace(self.index, samples=kept)
        lost = len(self.index.samples) - len(kept)
        result.left_out = {**self.left_out, **({rule: lost} if lost else {})}
        return result

    def __len__(self) -> int:
        return len(self.index.samples)

    def entry(self, i: int) -> SampleEntry:
        """The index row of sample i."""
        return self.index.samples[i]

    def load(self, i: int, resolution: int) -> SparseSDF:
        """Sample i at a resolution, as stored or resampled from the next finer one.

        CorruptSampleError names shard and sample if the stored bytes are damaged; UserError if
        no stored grid reaches the resolution's tau.
        """
        stored = self.source_resolution(resolution)
        sdf = self._read(self.entry(i), stored)
        tau = self._tau(resolution)
        if stored == resolution and sdf.tau == tau:
            return sdf
        return resample(sdf, resolution, tau)

    def tokens(self, resolution: int) -> list[int]:
        """Latent tokens (active bricks) of every sample, for the plan.

        Exact where the resolution is stored; otherwise estimated from the one that it is
        resampled from, since surfaces grow with the square of the resolution.
        """
        stored = self.source_resolution(resolution)
        ratio = (resolution / stored) ** 2
        counts = (sample.grids[stored].tokens for sample in self.index.samples)
        return [count if stored == resolution else max(1, round(count * ratio)) for count in counts]

    def shards(self, resolution: int) -> list[int]:
        """The number of the shard in which each sample lies, for the plan."""
        stored = self.source_resolution(resolution)
        return [self.index.shard_number(i, stored) for i in range(len(self))]

    def source_resolution(self, resolution: int) -> int:
        """The stored resolution that serves `resolution`: itself, or the next finer one."""
        finer = [r for r in self.index.resolutions if r >= resolution]
        if not finer:
            have = ", ".join(map(str, self.index.resolutions))
            raise UserError(
                f"{self.path}: resolution {resolution} is not stored and cannot be resampled from "
                f"a coarser one (stored: {have}); prepare it with `--resolution {resolution}`"
            )
        first = self.index.samples[0].grids
        tau = self._tau(resolution)
        if finer[0] != resolution or first[resolution].tau != tau:
            try:
                check_resample(finer[0], first[finer[0]].tau, resolution, tau)
            except UserError as err:
                raise UserError(f"{self.path}: {err}") from err
        return finer[0]

    def _tau(self, resolution: int) -> float:
        if self.tau is not None:
            return self.tau
        grid = self.index.samples[0].grids.get(resolution)
        return default_tau(resolution) if grid is None else grid.tau

    def _read(self, entry: SampleEntry, resolution: int) -> SparseSDF:
        grid: GridEntry = entry.grids[resolution]
        file = self.path / SHARDS / grid.shard
        try:
            sdf = decode_payload(read_member(file, grid.offset, grid.size, grid.sha256))
            if (sdf.resolution, sdf.tau, sdf.num_bricks) != (resolution, grid.tau, grid.tokens):
                raise CorruptSampleError("it is not the grid that the index describes")
        except CorruptSampleError as err:
            where = f"{file}: sample '{entry.id}' at resolution {resolution}"
            raise CorruptSampleError(f"{where}: {err}; {self._cure()}") from err
        return sdf

    def _cure(self) -> str:
        return (
            "restore the file, or delete it and run `threed-gen prepare` again with the same "
            f"arguments into {self.path}, which rebuilds what is missing"
        )

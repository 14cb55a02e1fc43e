"""Reading prepared samples: the index, and any sample at any resolution it can give.

A read is one range of a shard (of its copy on this node, its file or its URL), checked against the
sha256 of the index and validated while it is decoded, so a damaged sample is named and never
trained on. The index lies in columns that all processes of a node map: what a process holds does
not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from threed_gen.data.config import FilterConfig, RemoteConfig, StageConfig
from threed_gen.data.filter import NothingLeftError
from threed_gen.data.index import INDEX_NAME, DamagedIndexError, SampleEntry
from threed_gen.data.node_index import node_folder, open_index
from threed_gen.data.payload import CorruptSampleError, decode_payload
from threed_gen.data.resample import check_resample, resample
from threed_gen.data.rows import ColumnIndex, Ints
from threed_gen.data.staging.source import ShardSource
from threed_gen.data.staging.stager import Stager
from threed_gen.data.staging.upcoming import Upcoming
from threed_gen.errors import UserError
from threed_gen.geometry.sparse_sdf import SparseSDF, default_tau


class Staging:
    """A rank's part in staging: `at` each step, then `close`."""

    def __init__(self, stager: Stager, upcoming: Upcoming, ahead: int) -> None:
        self.stager, self._upcoming, self._ahead = stager, upcoming, ahead

    def at(self, step: int) -> None:
        """`step` is read next: fetch what it and the following ones need."""
        self.stager.want(self._upcoming(step, self._ahead + 1))

    def close(self) -> None:
        """Stop copying."""
        self.stager.close()


class SDFDataset:
    """The samples of a folder made by `prepare`. Cheap to open; safe to use in several processes.

    `path` is the folder, or the URL of one (then `self.path` has this node's copy of the index).
    `tau` (unit-cube units) is the truncation that `load` shall give; None takes what is stored,
    or each resolution's default where it has to resample. `rules` leave samples out; numbers of
    samples, `index` and everything else here then refer to those that are left, and `left_out`
    counts the others by rule. `remote` and `stage` are those of `data:` in a run's config.
    """

    def __init__(
        self,
        path: Path | str,
        tau: float | None = None,
        rules: FilterConfig | None = None,
        *,
        remote: RemoteConfig | None = None,
        stage: StageConfig | None = None,
    ) -> None:
        self._open(ShardSource(path, remote, stage), tau, rules or FilterConfig())

    def _open(self, source: ShardSource, tau: float | None, rules: FilterConfig) -> None:
        self.source, self.path, self.tau, self.rules = source, source.folder, tau, rules
        self.left_out: dict[str, int] = {}
        name = f"{source.name}/{INDEX_NAME}"
        if not source.index.is_file():
            raise UserError(
                f"{name}: no such file; make the data with `threed-gen prepare SOURCE {self.path}`"
            )
        try:
            columns = open_index(source.index, name, lambda: node_folder(source.stage.dir))
        except DamagedIndexError:
            source.forget_index()
            raise
        self.index = ColumnIndex(columns)
        if not len(self.index.samples):
            raise UserError(f"{name}: lists no samples; prepare some meshes")
        source.check(self.index.shards, self._cure())
        if rules != FilterConfig():
            self.index, self.left_out = self.index.filtered(rules, name)

    def for_validation(self) -> SDFDataset:
        """What is held out from a `train` split; itself if there is no split, or nothing in it."""
        if self.rules.split != "train":
            return self
        held_out = self.rules.model_copy(update={"split": "held_out"})
        try:
            result = SDFDataset.__new__(SDFDataset)
            result._open(self.source, self.tau, held_out)
            return result
        except NothingLeftError:
            return self

    def only(self, ids: Collection[str], rule: str) -> SDFDataset:
        """The samples among `ids`; the others count in `left_out` under the name `rule`.

        Raises NothingLeftError when none is left.
        """
        result = copy(self)
        try:
            result.index = self.index.only(ids)
        except NothingLeftError as err:
            name = self.source.name
            raise NothingLeftError(f"{name}: every sample is left out ({rule})") from err
        lost = len(self) - len(result)
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

    def token_counts(self, resolution: int) -> Ints:
        """Latent tokens (active bricks) of every sample, for the plan; mapped, read-only.

        Exact where the resolution is stored; otherwise estimated from the one that it is
        resampled from, since surfaces grow with the square of the resolution.
        """
        stored, rows = self.source_resolution(resolution), self.index.samples
        counts = rows.column(f"tokens-{stored}")
        if stored == resolution:
            return counts
        ratio = (resolution / stored) ** 2
        return rows.derived(
            f"tokens-{resolution} from {stored}",
            lambda: np.maximum(1, np.rint(counts * ratio)).astype(np.int64),
        )

    def shard_numbers(self, resolution: int) -> Ints:
        """The number of the shard in which each sample lies, for the plan; mapped, read-only."""
        return self.index.samples.column(f"shard-{self.source_resolution(resolution)}")

    def staging(
        self, batch: Callable[[int], Sequence[int]], steps: int | None = None
    ) -> Staging | None:
        """Begin to copy the shards of coming steps; None unless `data.stage.dir` is set.

        Args:
            batch: the samples of a step that this rank (or its node) reads.
            steps: of the whole run.
        """
        stager = self.source.stager(self.index.shards)
        if stager is None:
            return None
        names = [shard.file for shard in self.index.shards]
        finest = self.index.resolutions[-1]  # a sample's grids lie in one shard
        upcoming = Upcoming(batch, self.shard_numbers(finest), names, steps)
        return Staging(stager, upcoming, self.source.stage.ahead)

    def source_resolution(self, resolution: int) -> int:
        """The stored resolution that serves `resolution`: itself, or the next finer one."""
        finer = [r for r in self.index.resolutions if r >= resolution]
        if not finer:
            have = ", ".join(map(str, self.index.resolutions))
            raise UserError(
                f"{self.source.name}: resolution {resolution} is not stored and cannot be "
                f"resampled from a coarser one (stored: {have}); prepare it with "
                f"`--resolution {resolution}`"
            )
        first = self._first.grids
        tau = self._tau(resolution)
        if finer[0] != resolution or first[resolution].tau != tau:
            try:
                check_resample(finer[0], first[finer[0]].tau, resolution, tau)
            except UserError as err:
                raise UserError(f"{self.source.name}: {err}") from err
        return finer[0]

    @property
    def _first(self) -> SampleEntry:
        assert self.index.first is not None
        return self.index.first

    def _tau(self, resolution: int) -> float:
        if self.tau is not None:
            return self.tau
        grid = self._first.grids.get(resolution)
        return default_tau(resolution) if grid is None else grid.tau

    def _read(self, entry: SampleEntry, resolution: int) -> SparseSDF:
        grid = entry.grids[resolution]
        shard = self.index.shard(grid.shard)
        try:
            sdf = decode_payload(self.source.read(shard, grid.offset, grid.size, grid.sha256))
            if (sdf.resolution, sdf.tau, sdf.num_bricks) != (resolution, grid.tau, grid.tokens):
                raise CorruptSampleError("it is not the grid that the index describes")
        except CorruptSampleError as err:
            where = (
                f"{self.source.where(grid.shard)}: sample '{entry.id}' at resolution {resolution}"
            )
            raise CorruptSampleError(f"{where}: {err}; {self._cure()}") from err
        return sdf

    def _cure(self) -> str:
        return (
            "restore the file, or delete it and run `threed-gen prepare` again with the same "
            f"arguments into {self.source.name}, which rebuilds what is missing"
        )

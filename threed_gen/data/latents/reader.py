"""Latents from a folder that `threed-gen encode` wrote, for the samples of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from threed_gen.data.dataset import SDFDataset
from threed_gen.data.index import INDEX_NAME as SOURCE_INDEX
from threed_gen.data.latents.index import INDEX_NAME, SHARDS, LatentIndex
from threed_gen.data.latents.latent import Latent
from threed_gen.data.latents.payload import decode_latent
from threed_gen.data.latents.statistics import Draw, LatentStatistics
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.shard import read_member
from threed_gen.errors import UserError
from threed_gen.files import file_sha256


class CachedLatents:
    """A `LatentSource` over a folder. Cheap to open; may be pickled to loader workers.

    Statistics are those of the data set's samples at `resolutions` (all that were encoded when
    None), whatever else the folder holds; so they equal those of encoding them on the fly.
    """

    def __init__(
        self,
        folder: Path,
        dataset: SDFDataset,
        draw: Draw = "mode",
        resolutions: Sequence[int] | None = None,
    ) -> None:
        """Open `folder` for the samples of `dataset`.

        Raises:
            UserError: damaged or unfinished, encoded from other data or at another τ, a
                resolution that was not encoded, or no sample of the data set in it.
        """
        self.folder = folder
        index = LatentIndex.load(folder)
        self.params = index.params
        self.resolutions = tuple(sorted(resolutions or index.params.resolutions))
        self._check_source(dataset)
        self._check_shards(index)
        self._grids = {sample.id: sample.grids for sample in index.samples}
        self._rejects = {reject.id: reject for reject in index.rejects}
        self._choose(dataset)
        names = [name for name in self._names if name in self._grids]
        by_id = {sample.id: sample for sample in index.samples}
        try:
            self.statistics = LatentStatistics.of(
                (index.moments(by_id[name], r) for name in names for r in self.resolutions), draw
            )
        except ValueError as err:
            raise UserError(f"{folder / INDEX_NAME}: {err}; {self._cure()}") from err

    def over(self, dataset: SDFDataset) -> CachedLatents:
        """The same, with the same statistics, for another choice of the samples; same errors."""
        other = copy(self)
        other._check_source(dataset)
        other._choose(dataset)
        return other

    def _choose(self, dataset: SDFDataset) -> None:
        """Number the samples as `dataset` does, and find those without a latent."""
        self.missing: dict[str, str] = {}
        self._names = [dataset.entry(i).id for i in range(len(dataset))]
        for i, name in enumerate(self._names):
            if name in self._grids:
                self._check_tokens(dataset, i)
            elif name in self._rejects:
                reject = self._rejects[name]
                self.missing[name] = f"rejected ({reject.reason}): {reject.message}"
            else:
                self.missing[name] = "not encoded: `encode` was given another filter or split"
        if len(self.missing) == len(dataset):
            raise UserError(
                f"{self.folder / INDEX_NAME}: has a latent of none of the {len(dataset):,} samples "
                f"of {dataset.path} ({self.told()}); encode with `--split all`"
            )

    @property
    def channels(self) -> int:
        """C."""
        return self.params.channels

    def told(self) -> str:
        """How many samples have no latent, by reason: for a line of the log; "" if all have."""
        counts = Counter(reason.partition(":")[0] for reason in self.missing.values())
        return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())

    def load(self, i: int, resolution: int) -> Latent:
        """The latent of sample i of the data set, as it was stored.

        Raises:
            CorruptSampleError: naming shard and sample, if the stored bytes are damaged.
            UserError: there is none, and why.
        """
        name = self._names[i]
        if name in self.missing:
            raise UserError(f"{self.folder}: sample '{name}' has no latent: {self.missing[name]}")
        if resolution not in self._grids[name]:
            raise self._not_encoded(resolution)
        grid = self._grids[name][resolution]
        file = self.folder / SHARDS / grid.shard
        try:
            latent = decode_latent(read_member(file, grid.offset, grid.size, grid.sha256))
            found = latent.resolution, latent.num_tokens, latent.mean.shape[1]
            if found != (resolution, grid.tokens, self.channels):
                raise CorruptSampleError("it is not the latent that the index describes")
        except CorruptSampleError as err:
            where = f"{file}: latent of sample '{name}' at resolution {resolution}"
            raise CorruptSampleError(f"{where}: {err}; {self._cure()}") from err
        return latent

    def _check_source(self, dataset: SDFDataset) -> None:
        source = dataset.path / SOURCE_INDEX
        if file_sha256(source) != self.params.source_sha256:
            raise UserError(
                f"{self.folder / INDEX_NAME}: was encoded from another state of the data than "
                f"{source} is in now; encode again, with another --out"
            )
        if dataset.tau != self.params.tau:
            raise UserError(
                f"{self.folder / INDEX_NAME}: was encoded at data.tau = {self.params.tau}, this "
                f"run has data.tau = {dataset.tau}; set that key alike, or encode again"
            )
        for resolution in self.resolutions:
            if resolution not in self.params.resolutions:
                raise self._not_encoded(resolution)

    def _check_shards(self, index: LatentIndex) -> None:
        for shard in index.shards:
            file = self.folder / SHARDS / shard.file
            size = file.stat().st_size if file.exists() else None
            if size != shard.size:
                state = "is missing" if size is None else f"has {size} bytes, not {shard.size}"
                raise UserError(f"{file}: {state}; {self._cure()}")

    def _check_tokens(self, dataset: SDFDataset, i: int) -> None:
        """Where the data set has this very grid, its tokens are the latent's tokens."""
        for resolution, grid in dataset.entry(i).grids.items():
            latent = self._grids[self._names[i]].get(resolution)
            same_grid = self.params.tau in (None, grid.tau)
            if latent is not None and same_grid and latent.tokens != grid.tokens:
                raise UserError(
                    f"{self.folder / INDEX_NAME}: sample '{self._names[i]}' has {latent.tokens} "
                    f"tokens at resolution {resolution}, and {grid.tokens} in {dataset.path}; "
                    "encode again, with another --out"
                )

    def _not_encoded(self, resolution: int) -> UserError:
        have = ", ".join(map(str, self.params.resolutions))
        return UserError(
            f"{self.folder}: has no latents at resolution {resolution} (encoded: {have}); encode "
            f"with `--resolution {have.replace(',', '')} {resolution}`, with another --out"
        )

    def _cure(self) -> str:
        return (
            "restore the file, or delete it and run the same `threed-gen encode` again, which "
            "makes what is missing"
        )

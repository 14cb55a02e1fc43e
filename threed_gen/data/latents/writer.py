"""`threed-gen encode`'s second half: latents of a data set become shards and an index.

Samples are encoded in the order of the data set and cut into shards by bytes. What is written
depends on the samples, the weights and the parameters alone, so it is the same however often the
work was interrupted. The index is written last: it exists only when every shard is in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from threed_gen.console import Progress
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import INDEX_NAME, SHARDS, LatentIndex, LatentParams
from threed_gen.data.latents.latent import Latent, OnBadSample, Reject, latents_of
from threed_gen.data.latents.parts import Filling, Packed, Part, read_part
from threed_gen.data.latents.payload import encode_latent, rounded
from threed_gen.data.latents.statistics import Moments
from threed_gen.data.locks import BusyError, holder, locked
from threed_gen.errors import UserError
from threed_gen.files import TEMPORARY, remove_temporaries

SHARD_BYTES = 1 << 28  # what a kill can cost is what goes into one shard


@dataclass(frozen=True)
class Written:
    """What there is now, and how much of it is new."""

    index: LatentIndex
    encoded: int  # samples that were encoded now, rejects included


def write_latents(
    out: Path,
    dataset: SDFDataset,
    params: LatentParams,
    encode: Callable[[int, int], Latent],
    on_bad_sample: OnBadSample = "stop",
) -> Written:
    """Encode what is missing, and write the index.

    Args:
        encode: the latent of sample i of `dataset` at a resolution.
        on_bad_sample: whether a damaged SDF ends the work, or is rejected.

    Raises:
        UserError: somebody else writes here, or other parameters were used here, or no sample
            has a latent.
        CorruptSampleError: a damaged SDF under `stop`.
        DiskError: what could not be written; the same command goes on there.
    """
    folder = out / SHARDS
    try:
        with locked(folder / ".lock", {}):
            remove_temporaries(folder)
            for leftover in out.glob(f".{INDEX_NAME}.*{TEMPORARY}"):  # others may write in OUT too
                leftover.unlink(missing_ok=True)
            return _Writer(out, dataset, params, encode, on_bad_sample).run()
    except BusyError as err:
        raise UserError(
            f"{out}: another `encode` is writing here ({holder(err.note)}); wait for it, or choose "
            "another --out"
        ) from err


class _Writer:
    def __init__(
        self,
        out: Path,
        dataset: SDFDataset,
        params: LatentParams,
        encode: Callable[[int, int], Latent],
        on_bad_sample: OnBadSample,
    ) -> None:
        self.out, self.dataset, self.params, self.encode = out, dataset, params, encode
        self.on_bad_sample = on_bad_sample
        self.encoded = 0
        self.ahead: tuple[int, Packed | Reject] | None = None  # did not fit into the last part

    def run(self) -> Written:
        parts: list[Part] = []
        while (part := self.read(parts)) is not None:
            parts.append(part)
        total, done = len(self.dataset), _stop(parts)
        with Progress(total, "encoding", "shape", initial=done) as bar:
            while _stop(parts) < total:
                part = self.read(parts)  # whole, behind one that had to be made again
                if part is None:
                    part = self.make(len(parts), _stop(parts), bar)
                else:
                    bar.advance(part.stop - part.start)
                parts.append(part)
        samples = [sample for part in parts for sample in part.samples]
        rejects = [reject for part in parts for reject in part.rejects]
        if not samples:
            raise UserError(
                f"{self.out}: no sample has a latent: all {len(rejects):,} were rejected, the "
                f"first because {rejects[0].message}"
            )
        index = LatentIndex(self.params, [part.shard for part in parts], samples, rejects)
        path = self.out / INDEX_NAME
        if not path.exists() or self.encoded:
            index.save(self.out)
        return Written(index, self.encoded)

    def read(self, parts: list[Part]) -> Part | None:
        """The part that follows these, if it is there and whole."""
        start = _stop(parts)
        if start == len(self.dataset):
            return None
        return read_part(self.out / SHARDS, len(parts), self.params, start)

    def make(self, number: int, start: int, bar: Progress) -> Part:
        """Encode from sample `start` on until a shard is full."""
        (self.out / INDEX_NAME).unlink(missing_ok=True)  # from here on it might not be true
        filling = Filling(start)
        i = start
        while i < len(self.dataset):
            packed = self.packed(i)
            if isinstance(packed, Reject):
                bar.line(f"rejected: {packed.message}")
                filling.rejects.append(packed)
            elif filling.has_room(packed, self.params.shard_bytes):
                filling.add(packed)
            else:
                self.ahead = i, packed
                break
            self.encoded += 1
            bar.advance(note=self.dataset.entry(i).id)
            i += 1
        return filling.write(self.out / SHARDS, number, i, self.params)

    def packed(self, i: int) -> Packed | Reject:
        if self.ahead is not None and self.ahead[0] == i:
            return self.ahead[1]
        params, name = self.params, self.dataset.entry(i).id
        latents = latents_of(
            name,
            params.resolutions,
            lambda resolution: rounded(
                self.encode(i, resolution), name, params.values, params.store
            ),
            self.on_bad_sample,
        )
        if isinstance(latents, Reject):
            return latents
        return Packed(
            name,
            {latent.resolution: encode_latent(latent, params.values) for latent in latents},
            {latent.resolution: latent.num_tokens for latent in latents},
            {x.resolution: Moments.of(x.mean, x.logvar).to_text() for x in latents},
        )


def _stop(parts: list[Part]) -> int:
    """The sample behind the last part."""
    return parts[-1].stop if parts else 0

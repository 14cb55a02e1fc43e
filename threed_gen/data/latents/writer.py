"""`threed-gen encode`'s second half: latents of a data set become shards and an index.

Samples are encoded in the order of the data set and cut into shards by bytes. What is written
depends on the samples, the weights and the parameters alone, so it is the same however often the
work was interrupted, and whoever shared it. The index is written last: it exists only when every
shard is in place.

One process writes shards as it encodes. Several ranks leave their samples in OUT/latents/work
first (`work.py`); the one that finds all of them there packs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from threed_gen.console import Progress
from threed_gen.data.claim import packing_lock, taking_part
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import INDEX_NAME, SHARDS, LatentIndex, LatentParams
from threed_gen.data.latents.latent import Latent, OnBadSample, Reject
from threed_gen.data.latents.parts import (
    Filling,
    Packed,
    Part,
    parts_found,
    read_part,
    whole_part,
)
from threed_gen.data.latents.work import Packer, WaitingSamples, name_of
from threed_gen.data.ranks import Share
from threed_gen.errors import UserError
from threed_gen.files import TEMPORARY, remove_temporaries

SHARD_BYTES = 1 << 28  # what a kill can cost a single process is what goes into one shard
EVERYTHING = Share()

# Encodes samples elsewhere and leaves them in OUT/latents/work; says which, as each is done.
Elsewhere = Callable[[Iterable[int]], Iterator[int]]


@dataclass(frozen=True)
class Written:
    """What there is now, and how much of it is new."""

    index: LatentIndex | None  # None while samples are open
    encoded: int  # samples that were encoded now, rejects included
    open: int = 0  # samples of other ranks that are not encoded


def write_latents(
    out: Path,
    dataset: SDFDataset,
    params: LatentParams,
    encode: Callable[[int, int], Latent],
    on_bad_sample: OnBadSample = "stop",
    share: Share = EVERYTHING,
    elsewhere: Elsewhere | None = None,
) -> Written:
    """Encode what is missing of this process's share, and pack if nothing is missing then.

    Args:
        encode: the latent of sample i of `dataset` at a resolution.
        on_bad_sample: whether a damaged SDF ends the work, or is rejected.
        elsewhere: encodes in the stead of `encode`, which is left with what turns out damaged.

    Raises:
        UserError: somebody else writes here, or other parameters were used here, or no sample
            has a latent.
        CorruptSampleError: a damaged SDF under `stop`.
        DiskError: what could not be written; the same command goes on there.
    """
    folder = out / SHARDS
    waiting = WaitingSamples(folder)
    packer = Packer(dataset, params, encode, on_bad_sample)
    encoded = 0
    with taking_part(folder, {}, share, len(dataset), "encode") as alone:
        if alone:
            remove_temporaries(folder)
            waiting.remove_temporaries()
        if share.world_size > 1 or elsewhere is not None:
            own = [i for i in missing(packer, waiting) if share.owns(dataset.entry(i).id)]
            with packing_lock(folder):
                waiting.insist(params)
            encoded = _spread(packer, waiting, own, share, elsewhere)
        with packing_lock(folder):
            still_open = len(missing(packer, waiting)) if share.world_size > 1 else 0
            if still_open:
                return Written(None, encoded, still_open)
            if waiting.found():
                waiting.insist(params)
            for leftover in out.glob(f".{INDEX_NAME}.*{TEMPORARY}"):  # others may write in OUT too
                leftover.unlink(missing_ok=True)
            written = _Writer(out, packer, waiting).run()
            waiting.clean()
    return replace(written, encoded=written.encoded + encoded)


def missing(packer: Packer, waiting: WaitingSamples) -> list[int]:
    """The samples that neither wait nor lie in a whole shard; UserError as `whole_part`."""
    folder, dataset = waiting.folder, packer.dataset
    packed: set[int] = set()
    for number in parts_found(folder):
        part = whole_part(folder, number, packer.params)
        if part is not None:
            packed.update(range(part.start, part.stop))
    names = waiting.found()
    rest = (i for i in range(len(dataset)) if i not in packed)
    return [i for i in rest if name_of(dataset.entry(i).id) not in names]


def _spread(
    packer: Packer, waiting: WaitingSamples, own: list[int], share: Share,
    elsewhere: Elsewhere | None,
) -> int:  # fmt: skip
    """Encode samples into files of their own; how many."""
    if not own:
        return 0
    world = share.world_size
    label = "encoding" if world == 1 else f"encoding (rank {share.rank} of {world})"
    with Progress(len(own), label, "shape") as bar:
        for i in _stored(packer, waiting, own) if elsewhere is None else elsewhere(own):
            bar.advance(note=packer.dataset.entry(i).id)
    return len(own)


def _stored(packer: Packer, waiting: WaitingSamples, own: Iterable[int]) -> Iterator[int]:
    for i in own:
        waiting.write(packer.packed(i))
        yield i


class _Writer:
    """Makes the shards that are not there, one after the other, and the index."""

    def __init__(self, out: Path, packer: Packer, waiting: WaitingSamples) -> None:
        self.out, self.packer, self.waiting = out, packer, waiting
        self.dataset, self.params = packer.dataset, packer.params
        self.encoded = 0
        self.ahead: tuple[int, Packed | Reject] | None = None  # did not fit into the last part

    def run(self) -> Written:
        parts: list[Part] = []
        while (part := self.read(parts)) is not None:
            parts.append(part)
        total, done = len(self.dataset), _stop(parts)
        label = "packing" if self.waiting.found() else "encoding"
        with Progress(total, label, "shape", initial=done) as bar:
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
        """Fill a shard from sample `start` on."""
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
            bar.advance(note=self.dataset.entry(i).id)
            i += 1
        return filling.write(self.out / SHARDS, number, i, self.params)

    def packed(self, i: int) -> Packed | Reject:
        """Sample i: the one that had no room before, one that waits, or encoded now."""
        if self.ahead is not None and self.ahead[0] == i:
            return self.ahead[1]
        sample = self.waiting.read(self.dataset.entry(i).id)
        if sample is None:
            self.encoded += 1
            sample = self.packer.packed(i)
        return sample


def _stop(parts: list[Part]) -> int:
    """The sample behind the last part."""
    return parts[-1].stop if parts else 0

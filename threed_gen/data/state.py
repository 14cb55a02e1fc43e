"""What is known of every asset of a source, and what is left to do.

An asset is settled when its file has not changed since its outcome was recorded and, if it is good,
its payload is at hand: in OUT/work, or packed into a shard from which it can be taken back.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from threed_gen.console import say
from threed_gen.data.build import BuildParams, stamp_of, work_file
from threed_gen.data.claim import WORK, params_hash, refuse_others
from threed_gen.data.index import SHARDS, DamagedIndexError, SampleEntry, ShardIndex
from threed_gen.data.ledger import BuiltGrid, Ledger, Outcome
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.ranks import Share
from threed_gen.data.shard import read_member
from threed_gen.data.sources import Asset
from threed_gen.errors import UserError
from threed_gen.files import remove_temporaries, write_atomically


class State:
    """The assets of a source with the ledgers and the index of one OUT."""

    def __init__(
        self,
        assets: list[Asset],
        out: Path,
        build: BuildParams,
        params: dict[str, Any],
        share: Share,
    ) -> None:
        self.assets, self.out, self.build, self.params = assets, out, build, params
        self.share = share
        self.own = [asset for asset in assets if share.owns(asset.id)]
        self.work = out / WORK
        self.ledger = Ledger(self.work, share, params_hash(params))
        self.index: ShardIndex | None = None
        self.packed: dict[str, SampleEntry] = {}
        self._read_index()
        known = self.ledger.outcomes.keys() | self.packed.keys()
        if known and not any(asset.source in known for asset in assets):
            raise UserError(
                f"{out}: was made from other meshes (none of them is in this source); "
                "choose another OUT, or delete this one"
            )

    def refresh(self) -> None:
        """Take in what other ranks have done since."""
        self.ledger.refresh()
        self._read_index()

    def outcome(self, asset: Asset) -> Outcome | None:
        """What became of an asset, by the ledgers, or by the index if they were deleted."""
        return self.ledger.outcomes.get(asset.source) or self._from_index(asset.source)

    def settled(self, asset: Asset) -> bool:
        """True when the asset has not changed and its result is at hand."""
        outcome = self.outcome(asset)
        if outcome is None:
            return False
        stamp = stamp_of(asset)
        if outcome.ok and not stamp:  # its file is gone
            return False
        if stamp != outcome.stamp:
            if not outcome.ok or not _same_content(asset, outcome):
                return False
            outcome = replace(outcome, stamp=stamp)  # touched, or copied: the content is the same
        if outcome.ok and not self._has_payloads(outcome):
            return False
        if self.ledger.outcomes.get(asset.source) != outcome and self.share.owns(asset.id):
            self.ledger.add(outcome)
        return True

    def open(self) -> list[Asset]:
        """The assets that are not settled; only those without any outcome, if there are such."""
        never_seen = [asset for asset in self.assets if self.outcome(asset) is None]
        return never_seen or [asset for asset in self.assets if not self.settled(asset)]

    def is_packed(self) -> bool:
        """True when the shards hold exactly the good assets, and each has its size."""
        if self.index is None:
            return False
        wanted = [
            (a.id, a.source, o.sha256, {r: grid.sha256 for r, grid in o.grids.items()})
            for a in self.assets
            if (o := self.outcome(a)) is not None and o.ok
        ]
        have = [
            (s.id, s.source, s.source_sha256, {r: grid.sha256 for r, grid in s.grids.items()})
            for s in self.index.samples
        ]
        shards = self.index.shards
        return wanted == have and all(_size(self.out / SHARDS / s.file) == s.size for s in shards)

    def restore(self, assets: list[Asset]) -> list[Asset]:
        """Bring packed payloads back to OUT/work for packing anew; returns those beyond repair."""
        damaged = []
        for asset in assets:
            entry = self.packed.get(asset.source)
            outcome = self.outcome(asset)
            if entry is None or outcome is None or not outcome.ok:
                continue
            if not self._unpack(entry, outcome):
                say(f"{asset.source}: its sample in {SHARDS} is damaged, building it again")
                damaged.append(asset)
        return damaged

    def remove_temporaries(self) -> None:
        """Delete what killed runs have left half-written; nobody else may be at work."""
        for folder in (self.out, self.work, *self.work.iterdir()):
            remove_temporaries(folder)

    def clean(self) -> None:
        """Payloads that are packed need not lie in OUT/work as well."""
        if self.share.world_size == 1:
            folders = [folder for folder in self.work.iterdir() if folder.is_dir()]
            files = [file for folder in folders for file in folder.iterdir()]
        else:  # other ranks may be at work on assets that we do not know
            entries = self.index.samples if self.index else []
            files = [work_file(self.work, s.source, r) for s in entries for r in s.grids]
        for file in files:
            file.unlink(missing_ok=True)
        for folder in self.work.iterdir():
            if folder.is_dir():
                with suppress(OSError):  # somebody writes into it
                    folder.rmdir()

    def _has_payloads(self, outcome: Outcome) -> bool:
        if outcome.grids.keys() != self.build.tau.keys():
            return False
        entry = self.packed.get(outcome.source)
        return all(
            _is_packed(entry, resolution, grid)
            or _size(work_file(self.work, outcome.source, resolution)) == grid.size
            for resolution, grid in outcome.grids.items()
        )

    def _from_index(self, source: str) -> Outcome | None:
        entry = self.packed.get(source)
        if entry is None:
            return None
        grids = {
            resolution: BuiltGrid(grid.size, grid.sha256, grid.tokens, grid.voxels, grid.tau)
            for resolution, grid in entry.grids.items()
        }
        # Without a stamp, so the file's content is compared.
        return Outcome(source, [], entry.source_sha256, grids, flags=entry.flags, info=entry.info)

    def _unpack(self, entry: SampleEntry, outcome: Outcome) -> bool:
        for resolution, grid in entry.grids.items():
            path = work_file(self.work, entry.source, resolution)
            wanted = outcome.grids.get(resolution)
            if wanted is None or not _is_packed(entry, resolution, wanted):
                continue  # it has been built anew since it was packed
            if _size(path) == grid.size:
                continue
            try:
                shard = self.out / SHARDS / grid.shard
                blob = read_member(shard, grid.offset, grid.size, grid.sha256)
            except CorruptSampleError:
                return False
            write_atomically(path, blob, "a sample")
        return True

    def _read_index(self) -> None:
        self.index, self.packed = None, {}
        if (self.out / "index.jsonl").exists():
            try:
                self.index = ShardIndex.load(self.out)
            except DamagedIndexError as err:
                say(f"{err} (doing so)")
        if self.index is not None:
            refuse_others(self.out, self.index.params, self.params)
            self.packed = {entry.source: entry for entry in self.index.samples}


def _same_content(asset: Asset, outcome: Outcome) -> bool:
    try:
        return asset.sha256() == outcome.sha256
    except (OSError, UserError):  # building it will say what is wrong
        return False


def _is_packed(entry: SampleEntry | None, resolution: int, grid: BuiltGrid) -> bool:
    packed = entry.grids.get(resolution) if entry is not None else None
    return packed is not None and packed.sha256 == grid.sha256


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1

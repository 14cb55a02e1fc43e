"""`prepare`: a source of meshes becomes OUT/shards, OUT/index.jsonl and OUT/rejects.jsonl.

The work is done per asset in child processes and recorded in a ledger, so it can be interrupted
at any moment and started again with the same command. Assets are looked at again only when they
have changed. The same source and parameters give the same bytes, whatever happened on the way.

OUT/prepare.json   the parameters; another run with others is refused
OUT/work/          payloads that wait to be packed, and the ledger
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from threed_gen.console import Progress, say
from threed_gen.data.build import BuildParams, build_asset, rejected, work_file
from threed_gen.data.claim import claim, locked
from threed_gen.data.index import SHARDS, DamagedIndexError, SampleEntry, ShardIndex
from threed_gen.data.ledger import BuiltGrid, Ledger, Outcome
from threed_gen.data.pack import pack, write_rejects
from threed_gen.data.payload import CorruptSampleError, Values
from threed_gen.data.shard import read_member
from threed_gen.data.sources import Asset, Source
from threed_gen.data.workers import run_tasks
from threed_gen.errors import UserError, disk_errors
from threed_gen.files import remove_temporaries, write_atomically
from threed_gen.geometry.sparse_sdf import check_grid, default_tau


@dataclass(frozen=True)
class PrepareSummary:
    """What a run of `prepare` did."""

    out: Path
    samples: int  # in the index
    built: int  # assets measured by this run
    reused: int  # assets taken over from earlier runs
    rejects: dict[str, int]  # reason → number of assets
    shards: int
    bytes: int  # of all shards
    seconds: float


def prepare(
    source: Source,
    out: Path,
    resolutions: Sequence[int],
    *,
    tau: float | None = None,
    workers: int = 1,
    values: Values = "int8",
    shard_bytes: int = 1_000_000_000,
) -> PrepareSummary:
    """Turn `source` into shards at every resolution asked for.

    `tau` (unit-cube units) holds for all resolutions; None takes each one's default. `workers` is
    the number of processes, 0 works in this one. Raises UserError for bad parameters, for an OUT
    that was made with others or is in use, and when no asset could be used; DiskError when the
    disk is full. Every error leaves OUT in a state that the same command continues from.
    """
    start = time.monotonic()
    build = _build_params(resolutions, tau, values)
    if workers < 0 or shard_bytes < 1:
        raise UserError("workers must be 0 or more, and shards at least 1 byte")
    params = {**build.describe(), "shard_bytes": shard_bytes, "source": source.describe()}
    with disk_errors(out, "prepared data"), locked(out):
        claim(out, params)
        run = _Run(list(source), out, build, params, shard_bytes)
        try:
            index = run.finish(workers)
        except KeyboardInterrupt:
            say(f"prepare: interrupted; the same command goes on from here ({out})")
            raise
        finally:
            run.ledger.close()
        reasons = Counter(o.reason for o in run.outcomes() if o.reason is not None)
        return PrepareSummary(
            out=out,
            samples=len(index.samples),
            built=run.built,
            reused=len(run.assets) - run.built,
            rejects=dict(sorted(reasons.items())),
            shards=len(index.shards),
            bytes=sum(shard.size for shard in index.shards),
            seconds=time.monotonic() - start,
        )


class _Run:
    """One run over one OUT, which it has locked."""

    def __init__(
        self,
        assets: list[Asset],
        out: Path,
        build: BuildParams,
        params: dict[str, Any],
        shard_bytes: int,
    ) -> None:
        self.assets, self.out, self.build = assets, out, build
        self.params, self.shard_bytes = params, shard_bytes
        self.work = out / "work"
        self.ledger = Ledger(self.work / "ledger.jsonl")
        self.index = self._old_index()
        self.packed = {s.source: s for s in self.index.samples} if self.index else {}
        self.built = 0
        known = self.ledger.outcomes.keys() | self.packed.keys()
        if known and not any(asset.source in known for asset in assets):
            raise UserError(
                f"{out}: was made from other meshes (none of them is in this source); "
                "choose another OUT, or delete this one"
            )

    def finish(self, workers: int) -> ShardIndex:
        """Build what is missing and pack, or find that there is nothing to do."""
        todo = [asset for asset in self.assets if not self._settled(asset)]
        if not todo and self.index is not None and self._is_current(self.index):
            say(f"{self.out}: {len(self.index.samples)} shapes are prepared, nothing to do")
            self._clean()
            return self.index
        self._build([*todo, *self._restore(todo)], workers)
        rows = list(zip(self.assets, self.outcomes(), strict=True))
        write_rejects(self.out, rows)
        accepted = [(asset, outcome) for asset, outcome in rows if outcome.ok]
        if not accepted:
            first = rows[0][1]
            raise UserError(
                f"{self.out}: none of the {len(rows)} meshes could be used, for example "
                f"{first.source}: {first.message} (all reasons are in rejects.jsonl)"
            )
        index = pack(self.out, accepted, self.params, self.shard_bytes)
        self._clean()
        return index

    def outcomes(self) -> list[Outcome]:
        """The outcome of every asset, in their order; all of them must be settled."""
        return [self.ledger.outcomes[asset.source] for asset in self.assets]

    def _build(self, todo: list[Asset], workers: int) -> None:
        for folder in (self.out, self.work, *self.work.iterdir()):
            remove_temporaries(folder)
        call = partial(build_asset, work=self.work, params=self.build)
        done = len(self.assets) - len(todo)
        with Progress(len(self.assets), "preparing", "shape", initial=done) as bar:
            for outcome in run_tasks(call, todo, min(workers, len(todo)), _died):
                self.ledger.add(outcome)
                self.built += 1
                if not outcome.ok:
                    bar.line(f"rejected {outcome.source}: {outcome.message}")
                bar.advance(note=outcome.source)

    def _settled(self, asset: Asset) -> bool:
        """True when the asset has not changed and its result is at hand."""
        outcome = self.ledger.outcomes.get(asset.source) or self._from_index(asset.source)
        if outcome is None:
            return False
        try:
            stamp = asset.stamp()
        except OSError:  # gone since the folder was listed: building it will say so
            return False
        if stamp != outcome.stamp:
            if not outcome.ok or asset.sha256() != outcome.sha256:
                return False
            outcome = replace(outcome, stamp=stamp)  # touched, or copied: the content is the same
        if outcome.ok and not self._has_payloads(outcome):
            return False
        if self.ledger.outcomes.get(asset.source) != outcome:
            self.ledger.add(outcome)
        return True

    def _has_payloads(self, outcome: Outcome) -> bool:
        if outcome.grids.keys() != self.build.tau.keys():
            return False
        entry = self.packed.get(outcome.source)
        return all(
            (entry is not None and entry.grids[resolution].sha256 == grid.sha256)
            or _file_size(work_file(self.work, outcome.source, resolution)) == grid.size
            for resolution, grid in outcome.grids.items()
        )

    def _from_index(self, source: str) -> Outcome | None:
        """What the index knows of an asset, should the ledger have been deleted."""
        entry = self.packed.get(source)
        if entry is None:
            return None
        grids = {
            resolution: BuiltGrid(grid.size, grid.sha256, grid.tokens, grid.voxels, grid.tau)
            for resolution, grid in entry.grids.items()
        }
        return Outcome(source, [], entry.source_sha256, grids)

    def _is_current(self, index: ShardIndex) -> bool:
        """True when the index lists exactly these assets and every shard has its size."""
        wanted = [
            (a.id, a.source, o.sha256, {r: grid.sha256 for r, grid in o.grids.items()})
            for a, o in zip(self.assets, self.outcomes(), strict=True)
            if o.ok
        ]
        have = [
            (s.id, s.source, s.source_sha256, {r: grid.sha256 for r, grid in s.grids.items()})
            for s in index.samples
        ]
        sizes = all(_file_size(self.out / SHARDS / s.file) == s.size for s in index.shards)
        return wanted == have and sizes

    def _restore(self, todo: list[Asset]) -> list[Asset]:
        """Bring packed payloads back to OUT/work for packing anew; returns those beyond repair."""
        changed = {asset.source for asset in todo}
        damaged = []
        for asset in self.assets:
            entry = self.packed.get(asset.source)
            if entry is None or asset.source in changed:
                continue
            if self.ledger.outcomes[asset.source].ok and not self._unpack(entry):
                say(f"{asset.source}: its sample in {SHARDS} is damaged, building it again")
                damaged.append(asset)
        return damaged

    def _unpack(self, entry: SampleEntry) -> bool:
        for resolution, grid in entry.grids.items():
            path = work_file(self.work, entry.source, resolution)
            if _file_size(path) == grid.size:
                continue
            try:
                shard = self.out / SHARDS / grid.shard
                blob = read_member(shard, grid.offset, grid.size, grid.sha256)
            except CorruptSampleError:
                return False
            write_atomically(path, blob, "a sample")
        return True

    def _old_index(self) -> ShardIndex | None:
        try:
            return ShardIndex.load(self.out) if (self.out / "index.jsonl").exists() else None
        except DamagedIndexError as err:
            say(f"{err} (doing so)")
            return None

    def _clean(self) -> None:
        """Payloads that are packed need not lie in OUT/work as well."""
        for folder in self.work.iterdir():
            if folder.is_dir():
                for file in folder.iterdir():
                    file.unlink()
                with suppress(OSError):  # a last child of a killed run may still write into it
                    folder.rmdir()


def _died(asset: Asset) -> Outcome:
    message = "the process that measured it died (a crash, or out of memory)"
    return rejected(asset, asset.stamp(), asset.sha256(), "worker_died", message)


def _build_params(resolutions: Sequence[int], tau: float | None, values: Values) -> BuildParams:
    if not resolutions:
        raise UserError("give at least one resolution, for example 64")
    if values not in ("int8", "fp16"):
        raise UserError(f"values must be int8 or fp16, got {values!r}")
    taus = {}
    for resolution in sorted(set(resolutions)):
        if resolution > 0:
            taus[resolution] = default_tau(resolution) if tau is None else float(tau)
        check_grid(resolution, taus.get(resolution, 1.0))
    return BuildParams(taus, values)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1

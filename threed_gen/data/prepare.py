"""`prepare`: a source of meshes becomes OUT/shards, OUT/index.jsonl and OUT/rejects.jsonl.

The work is done per asset in child processes and recorded in a ledger, so it can be interrupted
at any moment and started again with the same command. Assets are looked at again only when they
have changed. The same source and parameters give the same bytes, whatever happened on the way.

Several ranks, on one node or many, may share the work on one OUT. Each owns a part of the assets;
the one that finds all of them settled packs. Or one process has the ranks of an mpirun build for it
(`crew.py`).

OUT/prepare.json   the parameters; another run with others is refused
OUT/work/          payloads that wait to be packed, and the ledgers
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from threed_gen.console import Progress, say
from threed_gen.data.build import (
    CAP_EXTENT,
    BuildParams,
    build_asset,
    lost_asset,
)
from threed_gen.data.claim import claim, packing_lock, taking_part
from threed_gen.data.crew import Crew
from threed_gen.data.index import ShardIndex
from threed_gen.data.ledger import Outcome
from threed_gen.data.pack import pack, relabel, write_rejects
from threed_gen.data.payload import Values
from threed_gen.data.ranks import Share
from threed_gen.data.sources import Asset, Source
from threed_gen.data.state import State
from threed_gen.data.status import told
from threed_gen.data.workers import Limits, run_tasks
from threed_gen.errors import UserError, disk_errors
from threed_gen.geometry.reading.reasons import shown
from threed_gen.geometry.sparse_sdf import check_grid, default_tau
from threed_gen.geometry.surface import OpenSurface

ROUNDS = 3  # of building; more than one only when something stored turns out to be damaged
HELD_OUT = 0.05
LIMITS = Limits()
EVERYTHING = Share()


@dataclass(frozen=True)
class PrepareSummary:
    """What a run of `prepare` did."""

    out: Path
    samples: int  # good assets: in the index, if all are settled
    built: int  # assets measured by this run
    reused: int  # assets of this rank taken over from earlier runs
    rejects: dict[str, int]  # reason → number of assets that cannot be used
    failed: dict[str, int]  # reason → number of assets that may go better another time
    open: int  # assets of other ranks that are not settled; 0: everything is packed
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
    open_surface: OpenSurface = "shell",
    cap_extent: float = CAP_EXTENT,
    held_out: float = HELD_OUT,
    limits: Limits = LIMITS,
    retry_failed: bool = False,
    share: Share = EVERYTHING,
    crew: Crew | None = None,
) -> PrepareSummary:
    """Turn `source` into shards at every resolution asked for.

    `tau` (unit-cube units) holds for all resolutions; None takes each one's default. `workers` is
    the number of processes, 0 works in this one, without `limits`; a `crew` builds in their stead.
    `share` is this process's part of the assets. Raises UserError for bad parameters, for an OUT
    that was made with others or is in use, and when no asset could be used; DiskError when the
    disk is full. Every error leaves OUT in a state that the same command continues from.
    """
    start = time.monotonic()
    build = _build_params(resolutions, tau, values, open_surface, cap_extent)
    if workers < 0 or shard_bytes < 1:
        raise UserError("workers must be 0 or more, and shards at least 1 byte")
    if not 0 <= held_out < 1:
        raise UserError(f"the held-out share must be at least 0 and below 1, got {held_out}")
    if limits.seconds <= 0 or limits.memory_mb <= 0:
        raise UserError("the limits on time and memory must be above 0")
    params = {
        **build.describe(),
        "shard_bytes": shard_bytes,
        "held_out": held_out,
        "source": source.describe(),
    }
    assets = list(source)
    with disk_errors(out, "prepared data"), taking_part(out, params, share, len(assets)) as alone:
        state = State(assets, out, build, params, share)  # which also looks at index and ledgers
        claim(out, params)
        if alone:
            state.remove_temporaries()
        run = _Run(state, workers, limits, retry_failed, crew)
        try:
            index, still_open = run.finish()
        except KeyboardInterrupt:
            say(f"prepare: interrupted; the same command goes on from here ({out})")
            raise
        finally:
            state.ledger.close()
        return run.summary(index, still_open, time.monotonic() - start)


class _Run:
    """One run of one rank."""

    def __init__(
        self,
        state: State,
        workers: int,
        limits: Limits,
        retry_failed: bool,
        crew: Crew | None,
    ) -> None:
        self.state, self.workers, self.limits = state, workers, limits
        self.retry_failed, self.crew = retry_failed, crew
        self.built: set[str] = set()

    def finish(self) -> tuple[ShardIndex | None, int]:
        """Build what is this rank's, and pack if it is the last; else how many are still open."""
        state = self.state
        todo = [asset for asset in state.own if not self._done(asset)]
        for _ in range(ROUNDS):
            if todo or not state.is_packed():
                todo += state.restore(_without(state.own, todo))
            self._build(todo)
            with packing_lock(state.out):
                state.refresh()
                still_open = state.open()
                if not still_open and not state.is_packed():
                    still_open = state.restore(state.assets)
                if not still_open:
                    return self._close(), 0
            todo = [asset for asset in still_open if state.share.owns(asset.id)]
            if not todo:
                self._tell_open(still_open)
                return None, len(still_open)
        raise UserError(
            f"{state.out}: {todo[0].source} and {len(todo) - 1} more change while they are "
            "prepared, or what is stored of them does; see that nothing else writes there"
        )

    def summary(self, index: ShardIndex | None, still_open: int, seconds: float) -> PrepareSummary:
        """The counts, over all ranks' assets as far as they are known."""
        outcomes = [o for a in self.state.assets if (o := self.state.outcome(a)) is not None]
        return PrepareSummary(
            out=self.state.out,
            samples=sum(outcome.ok for outcome in outcomes),
            built=len(self.built),
            reused=len(self.state.own) - len(self.built),
            rejects=_reasons(outcomes, "reject"),
            failed=_reasons(outcomes, "failed"),
            open=still_open,
            shards=len(index.shards) if index else 0,
            bytes=sum(shard.size for shard in index.shards) if index else 0,
            seconds=seconds,
        )

    def _done(self, asset: Asset) -> bool:
        outcome = self.state.outcome(asset)
        again = self.retry_failed and outcome is not None and outcome.status == "failed"
        return self.state.settled(asset) and not again

    def _build(self, todo: list[Asset]) -> None:
        state, ledger = self.state, self.state.ledger
        if not todo:
            return
        call = partial(build_asset, work=state.work, params=state.build)
        world = state.share.world_size
        label = "preparing" if world == 1 else f"preparing (rank {state.share.rank} of {world})"
        done = len(state.own) - len(todo)
        bad: Counter[str] = Counter()
        with Progress(len(state.own), label, "shape", initial=done) as bar:
            for outcome in self._outcomes(call, todo):
                before = ledger.outcomes.get(outcome.source)
                attempts = before.attempts + 1 if before else 1
                ledger.add(replace(outcome, attempts=attempts))
                self.built.add(outcome.source)
                if not outcome.ok:
                    bad[str(outcome.reason)] += 1
                    verb = "rejected" if outcome.status == "reject" else "failed"
                    bar.line(f"{verb} {shown(outcome.source)}: {outcome.message}")
                bar.advance(note=told(bad) if bad else outcome.source)

    def _outcomes(self, call: Callable[[Asset], Outcome], todo: list[Asset]) -> Iterator[Outcome]:
        if self.crew is not None:
            return self.crew.run_apart(call, todo, lost_asset, self.limits)
        return run_tasks(call, todo, self.workers, lost_asset, self.limits)

    def _close(self) -> ShardIndex:
        """All is settled: bring shards, index and rejects up to date."""
        state = self.state
        rows = [(a, o) for a in state.assets if (o := state.outcome(a)) is not None]
        write_rejects(state.out, rows)
        accepted = [(asset, outcome) for asset, outcome in rows if outcome.ok]
        if not accepted:
            first = rows[0][1]
            raise UserError(
                f"{state.out}: none of the {len(rows)} meshes could be used, for example "
                f"{first.source}: {first.message} (all reasons are in rejects.jsonl)"
            )
        size, held_out = state.params["shard_bytes"], state.params["held_out"]
        if state.index is not None and state.is_packed():
            if not self.built:
                say(f"{state.out}: {len(accepted)} shapes are prepared, nothing to do")
            state.index = relabel(state.out, state.index, accepted, held_out)
        else:
            state.index = pack(state.out, accepted, state.params, size, held_out)
        state.clean()
        return state.index

    def _tell_open(self, still_open: list[Asset]) -> None:
        share = self.state.share
        names = ", ".join(asset.source for asset in still_open[:3])
        more = f" and {len(still_open) - 3:,} more" if len(still_open) > 3 else ""
        say(
            f"{self.state.out}: rank {share.rank} of {share.world_size} has finished its part; "
            f"{len(still_open):,} of other ranks are open ({names}{more}). The last rank packs"
        )


def _without(assets: list[Asset], others: list[Asset]) -> list[Asset]:
    left_out = {asset.source for asset in others}
    return [asset for asset in assets if asset.source not in left_out]


def _reasons(outcomes: list[Outcome], status: str) -> dict[str, int]:
    found = Counter(str(o.reason) for o in outcomes if o.status == status)
    return dict(sorted(found.items()))


def _build_params(
    resolutions: Sequence[int],
    tau: float | None,
    values: Values,
    open_surface: OpenSurface,
    cap_extent: float,
) -> BuildParams:
    if not resolutions:
        raise UserError("give at least one resolution, for example 64")
    if values not in ("int8", "fp16"):
        raise UserError(f"values must be int8 or fp16, got {values!r}")
    if open_surface not in ("shell", "cap", "winding"):
        raise UserError(f"open_surface must be shell, cap or winding, got {open_surface!r}")
    if not 0 <= cap_extent <= 1:
        raise UserError(f"cap_extent must be a part of the longest side, 0 to 1, got {cap_extent}")
    taus = {}
    for resolution in sorted(set(resolutions)):
        if resolution > 0:
            taus[resolution] = default_tau(resolution) if tau is None else float(tau)
        check_grid(resolution, taus.get(resolution, 1.0))
    return BuildParams(taus, values, open_surface, float(cap_extent))

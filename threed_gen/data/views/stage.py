"""`prepare --views`: every sample becomes pictures, after its grids and without touching them.

Done per asset in child processes and recorded in a ledger, as the grids are: it can be interrupted
at any moment and started again, several ranks may share it, and the same source and parameters
give the same bytes. The rank that finds all views settled packs them.

OUT/views.jsonl            which pictures lie where, and their cameras
OUT/views/views-*.tar      the pictures
OUT/views_rejects.jsonl    the samples without views, and why
OUT/views.png              a contact sheet
OUT/views/work/            pictures that wait to be packed, and the ledgers
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from threed_gen.console import Progress, say
from threed_gen.data.claim import claim, packing_lock, taking_part
from threed_gen.data.ledger import Outcome
from threed_gen.data.pack import write_rejects
from threed_gen.data.ranks import Share
from threed_gen.data.sources import Asset, Source
from threed_gen.data.status import told
from threed_gen.data.views.build import ViewTask, build_views, lost_views
from threed_gen.data.views.index import FOLDER, ViewIndex
from threed_gen.data.views.pack import REJECTS_NAME, SHARD_BYTES, pack_views
from threed_gen.data.views.params import ViewParams
from threed_gen.data.views.sheet import SHEET_NAME, write_sheet
from threed_gen.data.views.state import ViewState, with_grids
from threed_gen.data.workers import Limits, run_tasks
from threed_gen.errors import UserError, disk_errors
from threed_gen.geometry.reading.reasons import shown

ROUNDS = 3  # of drawing; more than one only when something stored turns out to be damaged
LIMITS = Limits()
EVERYTHING = Share()


@dataclass(frozen=True)
class ViewsSummary:
    """What a run of the stage did."""

    samples: int  # with views, as far as is known
    built: int  # samples drawn by this run
    bad: dict[str, int]  # reason → number of samples without views
    flags: dict[str, int]  # of PAINT_FLAGS → number of samples
    open: int  # samples of other ranks that are not settled; 0: everything is packed
    shards: int
    bytes: int  # of all shards
    seconds: float


def prepare_views(
    source: Source,
    out: Path,
    params: ViewParams,
    *,
    workers: int = 1,
    limits: Limits = LIMITS,
    retry_failed: bool = False,
    share: Share = EVERYTHING,
    shard_bytes: int = SHARD_BYTES,
) -> ViewsSummary:
    """Draw the views of all samples that `prepare(source, out)` has made.

    Raises UserError for an OUT whose views have other parameters or are being drawn by somebody
    else, and when no sample could be drawn; DiskError when the disk is full. Every error leaves
    OUT in a state that the same command continues from.
    """
    start = time.monotonic()
    assets = list(source)
    folder, described = out / FOLDER, params.describe()
    with (
        disk_errors(folder, "views"),
        taking_part(folder, described, share, len(assets)) as alone,
    ):
        state = ViewState(out, params, share)
        claim(folder, described)
        if alone:
            state.remove_temporaries()
        run = _Run(state, assets, workers, limits, retry_failed, shard_bytes)
        try:
            index, still_open = run.finish()
        except KeyboardInterrupt:
            say(f"views: interrupted; the same command goes on from here ({out})")
            raise
        finally:
            state.ledger.close()
        return run.summary(index, still_open, time.monotonic() - start)


class _Run:
    """One run of one rank."""

    def __init__(
        self,
        state: ViewState,
        assets: list[Asset],
        workers: int,
        limits: Limits,
        retry_failed: bool,
        shard_bytes: int,
    ) -> None:
        self.state, self.assets = state, assets
        self.workers, self.limits, self.shard_bytes = workers, limits, shard_bytes
        self.retry_failed = retry_failed
        self.built: set[str] = set()

    def finish(self) -> tuple[ViewIndex | None, int]:
        """Draw what is this rank's, and pack if it is the last; else how many are still open."""
        state = self.state
        tasks, _ = with_grids(state.out, self.assets)
        todo = [task for task in self._own(tasks) if not self._done(task)]
        for _ in range(ROUNDS):
            self._build(todo)
            with packing_lock(state.folder):
                state.refresh()
                tasks, unknown = with_grids(state.out, self.assets)
                still_open = [task for task in tasks if not state.settled(task)]
                if not still_open and not unknown and not state.is_packed(tasks):
                    still_open = state.restore(tasks)
                if not still_open and not unknown:
                    return self._close(tasks), 0
            todo = self._own(still_open)
            if not todo:
                return None, len(still_open) + unknown
        raise UserError(
            f"{state.folder}: the views of {todo[0].asset.source} and {len(todo) - 1} more change "
            "while they are stored; see that nothing else writes there"
        )

    def summary(self, index: ViewIndex | None, still_open: int, seconds: float) -> ViewsSummary:
        """The counts, over all ranks' samples as far as they are known."""
        tasks, _ = with_grids(self.state.out, self.assets)
        outcomes = [o for task in tasks if (o := self.state.outcome(task)) is not None]
        return ViewsSummary(
            samples=sum(outcome.ok for outcome in outcomes),
            built=len(self.built),
            bad=dict(sorted(Counter(str(o.reason) for o in outcomes if not o.ok).items())),
            flags=dict(sorted(Counter(flag for o in outcomes for flag in o.flags).items())),
            open=still_open,
            shards=len(index.shards) if index else 0,
            bytes=sum(shard.size for shard in index.shards) if index else 0,
            seconds=seconds,
        )

    def _own(self, tasks: list[ViewTask]) -> list[ViewTask]:
        return [task for task in tasks if self.state.share.owns(task.asset.id)]

    def _done(self, task: ViewTask) -> bool:
        outcome = self.state.outcome(task)
        again = self.retry_failed and outcome is not None and outcome.status == "failed"
        return self.state.settled(task) and not again

    def _build(self, todo: list[ViewTask]) -> None:
        state = self.state
        if not todo:
            return
        call = partial(build_views, work=state.work, params=state.params)
        bad: Counter[str] = Counter()
        with Progress(len(todo), f"views ({state.params.count} each)", "shape") as bar:
            for outcome in run_tasks(call, todo, self.workers, lost_views, self.limits):
                before = state.ledger.outcomes.get(outcome.source)
                state.ledger.add(replace(outcome, attempts=before.attempts + 1 if before else 1))
                self.built.add(outcome.source)
                if not outcome.ok:
                    bad[str(outcome.reason)] += 1
                    bar.line(f"no views of {shown(outcome.source)}: {outcome.message}")
                bar.advance(note=told(bad) if bad else outcome.source)

    def _close(self, tasks: list[ViewTask]) -> ViewIndex:
        """All is settled: bring shards, index, rejects and the contact sheet up to date."""
        state = self.state
        rows = [(task, o) for task in tasks if (o := state.outcome(task)) is not None]
        write_rejects(state.out, [(task.asset, o) for task, o in rows], REJECTS_NAME)
        good: list[tuple[ViewTask, Outcome]] = [(task, o) for task, o in rows if o.ok]
        if not good:
            why = f"for example {rows[0][1].source}: {rows[0][1].message}" if rows else "no samples"
            raise UserError(
                f"{state.out}: there are views of none of its samples, {why} (all reasons are in "
                f"{REJECTS_NAME})"
            )
        if state.index is None or not state.is_packed(tasks):
            (state.out / SHEET_NAME).unlink(missing_ok=True)  # it shows an earlier set
            state.index = pack_views(state.out, good, state.params, self.shard_bytes)
            state.packed = {sample.source: sample for sample in state.index.samples}
        if not (state.out / SHEET_NAME).exists():
            write_sheet(state.out)
        state.clean()
        return state.index

"""What is known of the views of every asset, and what is left to do.

The stage keeps its parameters, locks, ledgers and waiting pictures in OUT/views, as `prepare` keeps
its own in OUT, with the same code. An asset is settled when its views were made from the content
that its grids were made from, and its pictures are at hand: waiting, or packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from threed_gen.console import say
from threed_gen.data.claim import WORK, params_hash
from threed_gen.data.index import INDEX_NAME, ShardIndex
from threed_gen.data.ledger import Ledger, Outcome, keep_newest, ledgers, read_ledger
from threed_gen.data.payload import CorruptSampleError
from threed_gen.data.ranks import Share
from threed_gen.data.shard import read_member
from threed_gen.data.sources import Asset
from threed_gen.data.views.build import ViewTask, work_file
from threed_gen.data.views.index import (
    FOLDER,
    VIEWS_NAME,
    DamagedViewsError,
    ViewIndex,
    ViewSample,
    camera_row,
)
from threed_gen.data.views.params import ViewParams
from threed_gen.files import TEMPORARY, remove_temporaries, write_atomically


def with_grids(out: Path, assets: Sequence[Asset]) -> tuple[list[ViewTask], int]:
    """The assets that have grids, in their order, and how many are not known to have or lack them.

    The ledgers of `prepare` say so; its index stands in for ledgers that were deleted.
    """
    known: dict[str, str | None] = {}
    if (out / INDEX_NAME).is_file():
        known = {sample.source: sample.source_sha256 for sample in ShardIndex.load(out).samples}
    newest: dict[str, Outcome] = {}
    for path in ledgers(out / WORK):
        for outcome in read_ledger(path)[0]:
            keep_newest(newest, outcome)
    known |= {source: o.sha256 if o.ok else None for source, o in newest.items()}
    tasks = [ViewTask(a, sha256) for a in assets if (sha256 := known.get(a.source)) is not None]
    return tasks, sum(asset.source not in known for asset in assets)


class ViewState:
    """The ledgers and the index of the views of one OUT."""

    def __init__(self, out: Path, params: ViewParams, share: Share) -> None:
        self.out, self.params, self.share = out, params, share
        self.folder = out / FOLDER
        self.work = self.folder / WORK
        self.ledger = Ledger(self.work, share, params_hash(params.describe()))
        self.index: ViewIndex | None = None
        self.packed: dict[str, ViewSample] = {}
        self._read_index()

    def refresh(self) -> None:
        """Take in what other ranks have done since."""
        self.ledger.refresh()
        self._read_index()

    def outcome(self, task: ViewTask) -> Outcome | None:
        """What became of the views of this content, by the ledgers, or else by the index."""
        found = self.ledger.outcomes.get(task.asset.source) or self._from_index(task.asset.source)
        return found if found is not None and found.sha256 == task.sha256 else None

    def settled(self, task: ViewTask) -> bool:
        """True when the views are at hand, or cannot be made."""
        outcome = self.outcome(task)
        if outcome is None:
            return False
        return not outcome.ok or self._is_packed(outcome) or self._waits(outcome)

    def is_packed(self, tasks: Sequence[ViewTask]) -> bool:
        """True when the shards hold exactly the good views, and each has its size."""
        if self.index is None:
            return False
        wanted = [
            (t.asset.id, t.asset.source, t.sha256, [view[1] for view in o.info["views"]])
            for t in tasks
            if (o := self.outcome(t)) is not None and o.ok
        ]
        have = [
            (s.id, s.source, s.source_sha256, [view.sha256 for view in s.views])
            for s in self.index.samples
        ]
        return wanted == have and all(
            _size(self.folder / shard.file) == shard.size for shard in self.index.shards
        )

    def restore(self, tasks: Sequence[ViewTask]) -> list[ViewTask]:
        """Bring packed pictures back to be packed anew; returns the tasks beyond repair."""
        lost = []
        for task in tasks:
            outcome = self.outcome(task)
            if outcome is None or not outcome.ok or self._waits(outcome):
                continue
            sample = self.packed[task.asset.source]
            shard = self.folder / sample.shard
            try:
                parts = [read_member(shard, v.offset, v.size, v.sha256) for v in sample.views]
            except CorruptSampleError:
                say(f"{task.asset.source}: its views are damaged, drawing them again")
                lost.append(task)
                continue
            write_atomically(work_file(self.work, sample.source), b"".join(parts), "views")
        return lost

    def remove_temporaries(self) -> None:
        """Delete what killed runs have left half-written; nobody else may be at work."""
        for folder in (self.folder, self.work, *self.work.iterdir()):
            remove_temporaries(folder)
        for leftover in self.out.glob(f".views*{TEMPORARY}"):  # grids may be in the making there
            leftover.unlink(missing_ok=True)

    def clean(self) -> None:
        """Pictures that are packed need not wait as well."""
        if self.share.world_size == 1:
            folders = [folder for folder in self.work.iterdir() if folder.is_dir()]
            files = [file for folder in folders for file in folder.iterdir()]
        else:  # other ranks may be at work on assets that we do not know
            files = [work_file(self.work, sample.source) for sample in self.packed.values()]
        for file in files:
            file.unlink(missing_ok=True)
        for folder in self.work.iterdir():
            if folder.is_dir():
                with suppress(OSError):  # somebody writes into it
                    folder.rmdir()

    def _waits(self, outcome: Outcome) -> bool:
        total = sum(view[0] for view in outcome.info["views"])
        return _size(work_file(self.work, outcome.source)) == total

    def _is_packed(self, outcome: Outcome) -> bool:
        sample = self.packed.get(outcome.source)
        hashes = [view[1] for view in outcome.info["views"]]
        return sample is not None and [view.sha256 for view in sample.views] == hashes

    def _from_index(self, source: str) -> Outcome | None:
        sample = self.packed.get(source)
        if sample is None:
            return None
        info = {"views": [[v.size, v.sha256, *camera_row(v.camera)] for v in sample.views]}
        return Outcome(source, [], sample.source_sha256, flags=sample.flags, info=info)

    def _read_index(self) -> None:
        self.index, self.packed = None, {}
        if not (self.out / VIEWS_NAME).exists():
            return
        try:
            index = ViewIndex.load(self.out)
        except DamagedViewsError as err:
            say(f"{err} (doing so)")
            return
        # Others' parameters: OUT/views was deleted, as the refusal of other parameters advises.
        if index.params == self.params.describe():
            self.index = index
            self.packed = {sample.source: sample for sample in index.samples}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1

"""How far `prepare` has come, from the ledgers of all ranks, while it runs or after it stopped.

Nothing is written and no lock is held for longer than a look, so it may be asked at any time.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from threed_gen.console import table
from threed_gen.data.claim import WORK, rank_lock
from threed_gen.data.ledger import Outcome, keep_newest, ledgers, read_ledger
from threed_gen.data.locks import holder, is_held, read_note
from threed_gen.data.ranks import Share


@dataclass(frozen=True)
class RankStatus:
    """One rank: what its ledger says, and whether it is at work."""

    share: Share
    running: bool
    where: str  # process and host
    ok: int  # assets whose newest outcome is in this rank's ledger
    rejected: int
    failed: int
    per_second: float | None  # outcomes since it was started


@dataclass(frozen=True)
class PrepareStatus:
    """All ranks together."""

    assets: int | None  # in the source; None if nobody said
    ok: int
    rejects: dict[str, int]
    failed: dict[str, int]
    ranks: list[RankStatus]

    @property
    def settled(self) -> int:
        """Assets that have an outcome."""
        return self.ok + sum(self.rejects.values()) + sum(self.failed.values())

    @property
    def open(self) -> int | None:
        """Assets without an outcome."""
        return None if self.assets is None else max(0, self.assets - self.settled)

    @property
    def running(self) -> bool:
        """Whether any rank is at work."""
        return any(rank.running for rank in self.ranks)

    def __str__(self) -> str:
        state = "at work" if self.running else "stopped"
        to_go = "an unknown number" if self.open is None else f"{self.open:,}"
        rows = [
            (
                rank.share.rank,
                rank.share.world_size,
                "at work" if rank.running else "stopped",
                rank.ok,
                rank.rejected,
                rank.failed,
                "-" if rank.per_second is None else f"{rank.per_second:.2f}",
                rank.where,
            )
            for rank in self.ranks
        ]
        headers = ("rank", "of", "state", "ok", "rejected", "failed", "per s", "process")
        return (
            f"prepare is {state}: {self.ok:,} ok, {sum(self.rejects.values()):,} rejected, "
            f"{sum(self.failed.values()):,} failed, {to_go} open{self._time_left()}\n"
            f"rejected: {told(self.rejects)}\nfailed: {told(self.failed)}\n\n"
            f"{table(headers, rows)}"
        )

    def _time_left(self) -> str:
        rate = sum(rank.per_second or 0.0 for rank in self.ranks if rank.running)
        return f" (about {self.open / rate:.0f} s)" if rate > 0 and self.open else ""


def read_status(out: Path) -> PrepareStatus | None:
    """What the ledgers in OUT say; None when there are none."""
    newest: dict[str, Outcome] = {}
    origin: dict[str, Path] = {}
    lines: dict[Path, int] = {}
    for path in ledgers(out / WORK):
        found, _ = read_ledger(path)
        lines[path] = len(found)
        for outcome in found:
            keep_newest(newest, outcome)
            if newest[outcome.source] is outcome:
                origin[outcome.source] = path
    if not lines:
        return None
    ranks = []
    assets: tuple[float, int] | None = None  # the newest word on it
    for path, count in lines.items():
        own = [outcome for source, outcome in newest.items() if origin[source] == path]
        lock = rank_lock(out, _share(path))
        note = read_note(lock)
        if isinstance(note.get("assets"), int):
            assets = max(assets or (0.0, 0), (float(note.get("started", 0.0)), note["assets"]))
        ranks.append(_rank(path, count, own, lock))
    return PrepareStatus(
        assets=assets[1] if assets else None,
        ok=sum(outcome.ok for outcome in newest.values()),
        rejects=_reasons(newest, "reject"),
        failed=_reasons(newest, "failed"),
        ranks=sorted(ranks, key=lambda rank: (rank.share.world_size, rank.share.rank)),
    )


def told(reasons: dict[str, int]) -> str:
    """`no_faces 12, timeout 1`: the most frequent reason first; `none`."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ranked) or "none"


def _rank(path: Path, lines: int, own: list[Outcome], lock: Path) -> RankStatus:
    note = read_note(lock)
    added = lines - int(note.get("lines", lines))
    seconds = path.stat().st_mtime - float(note.get("started", 0.0))
    return RankStatus(
        share=_share(path),
        running=is_held(lock),
        where=holder(note),
        ok=sum(outcome.ok for outcome in own),
        rejected=sum(outcome.status == "reject" for outcome in own),
        failed=sum(outcome.status == "failed" for outcome in own),
        per_second=added / seconds if added > 0 and seconds > 0 else None,
    )


def _share(ledger: Path) -> Share:
    match = re.fullmatch(r"ledger\.(\d+)-of-(\d+)\.jsonl", ledger.name)
    return Share(int(match[1]), int(match[2])) if match else Share()


def _reasons(outcomes: dict[str, Outcome], status: str) -> dict[str, int]:
    return dict(Counter(str(o.reason) for o in outcomes.values() if o.status == status))

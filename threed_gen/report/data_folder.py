"""Reads what a folder of prepared data says of itself: index, rejects and ledgers.

Only the index has to be there. What is missing (data prepared by an earlier version has no figures
about sheets, distances or seconds) is empty; what is damaged is named in `notes`, which the page
shows. Nothing is written, so that the page may be made while `prepare` runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threed_gen.data.claim import WORK
from threed_gen.data.index import INDEX_NAME, SHARDS, SampleEntry, ShardIndex
from threed_gen.data.ledger import Outcome, keep_newest, ledgers, read_ledger
from threed_gen.data.pack import REJECTS_NAME

Record = dict[str, Any]


@dataclass(frozen=True)
class DataFolder:
    """The readable content of one folder of prepared data."""

    root: Path
    index: ShardIndex
    rejects: list[Record] = field(default_factory=list)  # id, source, status, reason, message
    outcomes: list[Outcome] = field(default_factory=list)  # the newest of each asset
    notes: list[str] = field(default_factory=list)  # what could not be read

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def failed(self) -> list[Record]:
        """Those of the rejects that may go better another time."""
        return [reject for reject in self.rejects if reject.get("status") == "failed"]

    @property
    def finest(self) -> int:
        """The finest stored resolution; 0 when there is no sample."""
        return max(self.index.resolutions, default=0)


def read_data(root: Path) -> DataFolder:
    """Read the folder `root`.

    Without an index, but with rejects, it is a set in which no mesh could be used.

    Raises:
        UserError: there is neither, or the index is damaged.
    """
    notes: list[str] = []
    rejects = root / REJECTS_NAME
    if rejects.is_file() and not (root / INDEX_NAME).exists():
        index = ShardIndex({}, [], [])
    else:
        index = ShardIndex.load(root)
    for shard in index.shards:
        path = root / SHARDS / shard.file
        if not path.is_file() or path.stat().st_size != shard.size:
            notes.append(f"{SHARDS}/{shard.file} is missing, or not as long as the index says")
    newest: dict[str, Outcome] = {}
    for path in ledgers(root / WORK):
        for outcome in read_ledger(path)[0]:
            keep_newest(newest, outcome)
    return DataFolder(
        root=root,
        index=index,
        rejects=_records(rejects, notes) if rejects.is_file() else [],
        outcomes=list(newest.values()),
        notes=notes,
    )


def grid_figures(sample: SampleEntry, resolution: int) -> Mapping[str, Any]:
    """What was measured of one grid of a sample: shares of the signs, distances to its source."""
    grids = sample.info.get("grids")
    figures = grids.get(str(resolution)) if isinstance(grids, Mapping) else None
    return figures if isinstance(figures, Mapping) else {}


def figure(tree: Mapping[str, Any], *keys: str) -> float | None:
    """The finite number under `keys`, or None."""
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def sheet_share(sample: SampleEntry, resolution: int) -> float | None:
    """Share of a grid's band that belongs to open sheets."""
    return figure(grid_figures(sample, resolution), "sheet_share")


def source_distance(sample: SampleEntry, resolution: int) -> float | None:
    """Mean distance in voxels from the visible source to the stored surface."""
    return figure(grid_figures(sample, resolution), "fidelity", "mean_to_result")


def _records(path: Path, notes: list[str]) -> list[Record]:
    """The JSON objects of a file with one on each line; unreadable lines are counted."""
    records: list[Record] = []
    bad = 0
    # Not `splitlines`: a file's name may hold one of the many other ends of line of Unicode.
    for line in path.read_text("utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            bad += 1
    if bad:
        notes.append(f"{path.name}: {bad} unreadable line{'s' if bad > 1 else ''} left out")
    return records

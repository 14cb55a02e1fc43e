"""`threed-gen prepare SRC OUT`: meshes → shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from threed_gen.data.prepare import prepare
from threed_gen.data.sources import FolderSource, ProceduralSource
from threed_gen.errors import UserError

DEFAULT_COUNT = 120


def run(args: argparse.Namespace) -> int:
    """A stopped `prepare` goes on where it was when it is started again."""
    summary = prepare(
        parse_source(args.source),
        args.out,
        args.resolution,
        tau=args.tau,
        workers=args.workers,
        values=args.values,
    )
    shards = "1 shard" if summary.shards == 1 else f"{summary.shards:,} shards"
    rejected = ", ".join(f"{reason} {count}" for reason, count in summary.rejects.items())
    print(
        f"{summary.out}: {summary.samples:,} samples in {shards}, "
        f"{summary.bytes / 1e6:,.1f} MB ({summary.built:,} built now, {summary.reused:,} were "
        f"there, {summary.seconds:.0f} s)"
    )
    print(
        f"rejected: {rejected or 'none'}" + (f" (see {summary.out}/rejects.jsonl)" * bool(rejected))
    )
    return 0


def parse_source(text: str) -> FolderSource | ProceduralSource:
    """A folder, or `procedural[:COUNT[:SEED]]`."""
    kind, *numbers = text.split(":")
    if kind != "procedural" or Path(text).is_dir():
        return FolderSource(Path(text))
    try:
        count, seed, *rest = [*map(int, numbers), *(DEFAULT_COUNT, 0)[len(numbers) :]]
    except ValueError as err:
        raise UserError(f"{text}: expected procedural[:COUNT[:SEED]] with whole numbers") from err
    if rest or count < 1 or seed < 0:
        raise UserError(f"{text}: expected procedural[:COUNT[:SEED]], COUNT at least 1")
    return ProceduralSource(count, seed)

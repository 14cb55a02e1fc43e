"""`threed-gen prepare SRC OUT`: meshes → shards."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from threed_gen.console import say
from threed_gen.data.crew import Crew, mustered
from threed_gen.data.prepare import PrepareSummary, prepare
from threed_gen.data.ranks import Share, crew_share, share_of
from threed_gen.data.sources import (
    SelectedSource,
    Selection,
    Source,
    SourceOptions,
    source_from,
    words,
)
from threed_gen.data.status import told
from threed_gen.data.workers import Limits
from threed_gen.errors import DiskError, UserError

if TYPE_CHECKING:
    from threed_gen.data.views.params import ViewParams


def run(args: argparse.Namespace) -> int:
    """A stopped `prepare` goes on where it was when it is started again."""
    views = view_params(args)
    if not args.mpi:
        return prepare_as(args, share_of(args.rank, args.world_size, os.environ), None, views)
    if args.workers != 1:
        raise UserError("--mpi: every rank is a worker; start more ranks (mpirun -n) instead")
    if views is not None:
        raise UserError("--mpi builds grids only; afterwards run the same with --views, no --mpi")
    share = crew_share(args.rank, args.world_size, os.environ)
    with mustered(os.environ) as crew:
        return 0 if crew is None else prepare_as(args, share, crew, None)


def prepare_as(
    args: argparse.Namespace, share: Share, crew: Crew | None, views: ViewParams | None
) -> int:
    """Be one rank of `prepare`; `crew` builds in its stead."""
    summary = prepare(
        parse_source(args.source, source_options(args)),
        args.out,
        args.resolution,
        tau=args.tau,
        workers=args.workers,
        values=args.values,
        open_surface=args.open_surface,
        cap_extent=args.cap_extent,
        held_out=args.held_out,
        limits=Limits(args.timeout, args.memory_mb),
        retry_failed=args.retry_failed,
        share=share,
        crew=crew,
    )
    print("\n".join(told_summary(summary, share)))
    if views is not None:
        print("\n".join(draw_views(args, share, views)))
    page = summary.out / "report.html"
    if not args.no_report and not summary.open and (summary.built or not page.is_file()):
        write_page(summary.out)
    return 0


def view_params(args: argparse.Namespace) -> ViewParams | None:
    """What the group "views" asks for; None without --views."""
    if args.views is None:
        if args.view_law is not None or args.view_size is not None:
            raise UserError("--view-law and --view-size say how views are drawn: give --views N")
        return None
    from threed_gen.data.views.params import ViewParams

    return ViewParams(args.views, args.view_law or "trellis", args.view_size)


def draw_views(args: argparse.Namespace, share: Share, params: ViewParams) -> list[str]:
    """Run the stage of views; what it did, in lines."""
    from threed_gen.data.views.stage import prepare_views

    done = prepare_views(
        source_from(args.source, source_options(args)),
        args.out,
        params,
        workers=args.workers,
        limits=Limits(args.timeout, args.memory_mb),
        retry_failed=args.retry_failed,
        share=share,
    )
    by_now = f"{done.built:,} samples drawn now, {done.seconds:.0f} s"
    if done.open:
        head = f"views: rank {share.rank} of {share.world_size} is done ({by_now}); "
        return [f"{head}{done.open:,} samples of other ranks are open"]
    size = f"{done.bytes / 1e6:,.1f} MB ({by_now})"
    look = f"look at {args.out / 'views.png'}"
    lines = [f"views: {params.count} of each of {done.samples:,} samples, {size}; {look}"]
    if done.bad:
        lines.append(_counted("without views", done.bad, f" (see {args.out}/views_rejects.jsonl)"))
    if done.flags:
        lines.append(_counted("colours", done.flags, " (drawn, neutral there)"))
    return lines


def write_page(out: Path) -> None:
    """Write the page of the data. Whatever keeps it from being made, the data is good."""
    from threed_gen.report.data_page import write_data_report

    try:
        print(f"report: {write_data_report(out)}")
    except DiskError:
        raise
    except (UserError, OSError, MemoryError) as err:
        say(f"{out}: the data is complete, only its page could not be made: {err}")


def told_summary(summary: PrepareSummary, share: Share) -> list[str]:
    """The last lines: what there is now, what is missing, and why."""
    by_now = f"{summary.built:,} built now, {summary.reused:,} were there, {summary.seconds:.0f} s"
    if summary.open:
        head = (
            f"{summary.out}: rank {share.rank} of {share.world_size} is done ({by_now}); "
            f"{summary.samples:,} good so far, {summary.open:,} assets of other ranks are open"
        )
    else:
        shards = "1 shard" if summary.shards == 1 else f"{summary.shards:,} shards"
        head = (
            f"{summary.out}: {summary.samples:,} samples in {shards}, "
            f"{summary.bytes / 1e6:,.1f} MB ({by_now})"
        )
    see = f" (see {summary.out}/rejects.jsonl)"
    lines = [head, _counted("rejected", summary.rejects, see if not summary.open else "")]
    if summary.failed:
        cure = " (--retry-failed tries them again; --timeout and --memory-mb give them more)"
        lines.append(_counted("failed", summary.failed, cure))
    return lines


def _counted(what: str, reasons: dict[str, int], more: str) -> str:
    if not reasons:
        return f"{what}: none"
    return f"{what}: {sum(reasons.values()):,}: {told(reasons)}{more}"


def parse_source(text: str, options: SourceOptions | None = None) -> Source:
    """The source that `text` names (docs/sources.md); says what the selection leaves out."""
    source = source_from(text, options)
    if isinstance(source, SelectedSource):
        print(f"{text}: {source}")
    return source


def source_options(args: argparse.Namespace) -> SourceOptions:
    """The options of the group "sources"."""
    selection = Selection(words(args.licence), args.min_score, words(args.exclude), args.limit)
    return SourceOptions(args.root, args.cache, args.objaverse_url, selection)

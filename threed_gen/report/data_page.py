"""The page of prepared data: what became a sample, what did not and why, and what to look at.

`write_data_report` needs nothing but the folder: pictures are drawn from the stored grids
(data_samples.py), reasons come from rejects.jsonl (data_rejects.py), figures from index and
ledgers. The page stays below `MOST_BYTES` however many samples there are. Every text that comes
from files is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.reading.reasons import FLAGS
from threed_gen.report.data_folder import (
    DataFolder,
    read_data,
    sheet_share,
    source_distance,
)
from threed_gen.report.data_rejects import rejects_section
from threed_gen.report.data_samples import picture_sections
from threed_gen.report.document import Document, Tile, alert
from threed_gen.report.histograms import Histogram, histogram_card
from threed_gen.report.text import plain

MOST_BYTES = 10_000_000  # of the page; a test holds it to that
MOST_KINDS = 20  # rows in a table of flags, families or licences


def write_data_report(out: Path) -> Path:
    """Write `out/report.html` about the prepared data in `out`; returns its path.

    Raises:
        UserError: there is no prepared data, or its index is damaged.
    """
    if not out.is_dir():
        raise UserError(f"{out}: no such folder of prepared data")
    page = data_report_html(read_data(out))
    path = out / "report.html"
    write_atomically(path, page.encode("utf-8"), "the report")
    return path


def data_report_html(data: DataFolder) -> str:
    """The page as text."""
    sheet, worst = picture_sections(data)
    return Document(
        name=plain(data.name),
        kicker="prepared data",
        badge=_badge(data),
        lead=_lead(data),
        tiles=_tiles(data),
        alerts=_alerts(data),
        sections={
            "Samples": sheet,
            "Left out": rejects_section(data),
            "Farthest from their source": worst,
            "Distributions": _distributions(data),
            "Contents": _contents(data),
        },
    ).html()


def _badge(data: DataFolder) -> str:
    if not data.index.samples:
        return '<span class="badge">no sample</span>'
    return '<span class="badge done">ready for training</span>'


def _lead(data: DataFolder) -> str:
    grids = data.index.samples[0].grids if data.index.samples else {}
    parts = [
        f"{resolution}³ (τ {grid.tau * resolution:.3g} voxels)"
        for resolution, grid in sorted(grids.items())
    ]
    source = data.index.params.get("source")
    if isinstance(source, Mapping) and "kind" in source:
        parts.append(f"source: {source['kind']}")
    return escape(" · ".join(plain(part) for part in parts))


def _tiles(data: DataFolder) -> list[Tile]:
    samples, left_out, failed = data.index.samples, len(data.rejects), len(data.failed)
    total = len(samples) + left_out
    share = f"{100 * (left_out - failed) / max(total, 1):.3g} %"
    found: list[Tile] = [
        (f"{len(samples):,}", "samples", f"of {total:,} meshes"),
        (f"{left_out - failed:,}", "rejected", share),
    ]
    if failed:
        found.append((f"{failed:,}", "failed", "may be tried again"))
    if not samples:
        return found
    tokens = sorted(sample.grids[data.finest].tokens for sample in samples)
    found.append(
        (f"{tokens[len(tokens) // 2]:,}", f"tokens at {data.finest}³", f"most {tokens[-1]:,}")
    )
    distances = sorted(
        d for sample in samples if (d := source_distance(sample, data.finest)) is not None
    )
    if distances:
        found.append(
            (
                f"{distances[len(distances) // 2]:.3f}",
                "voxels from the source",
                f"worst {distances[-1]:.3g}",
            )
        )
    shares = [s for sample in samples if (s := sheet_share(sample, data.finest)) is not None]
    if shares:
        open_ones = sum(share > 0 for share in shares)
        found.append((f"{open_ones:,}", "with open sheets", f"policy {_policies(data)}"))
    shards = data.index.shards
    size = sum(shard.size for shard in shards)
    short_size = (f"{size / 1e9:,.1f}", "GB") if size >= 1e9 else (f"{size / 1e6:,.1f}", "MB")
    found.append((*short_size, f"in {len(shards):,} shard{'s' if len(shards) > 1 else ''}"))
    licences = {sample.licence for sample in samples if sample.licence}
    unknown = sum(not sample.licence for sample in samples)
    aside = f"{unknown:,} samples without" if unknown else "for every sample"
    if licences:
        found.append((f"{len(licences):,}", "licence" if len(licences) == 1 else "licences", aside))
    return found


def _policies(data: DataFolder) -> str:
    names = Counter(str(s.info["policy"]) for s in data.index.samples if "policy" in s.info)
    return ", ".join(plain(name, 20) for name, _ in names.most_common(3)) or "unknown"


def _alerts(data: DataFolder) -> str:
    blocks = []
    if data.notes:
        blocks.append(alert("Read from the folder", [plain(note, 300) for note in data.notes[:20]]))
    if data.index.samples and not any(sample.info for sample in data.index.samples):
        text = (
            "It was prepared by an earlier version of threed-gen. Prepared anew into another "
            "folder, this page also shows sheets, caps and distances to the source."
        )
        blocks.append(alert("Fewer figures than usual", [text], "quiet"))
    return "".join(blocks)


def _distributions(data: DataFolder) -> str:
    samples = data.index.samples
    charts = [
        Histogram(f"tokens at {r}³", [float(s.grids[r].tokens) for s in samples])
        for r in data.index.resolutions
    ]
    finest = data.finest
    shares = [s for sample in samples if (s := sheet_share(sample, finest)) is not None]
    some = [share for share in shares if share > 0]
    charts.append(
        Histogram(
            f"sheet share at {finest}³", some, log=False, span=(0.0, 1.0), percent=True,
            note=f"of {len(some):,} samples with open sheets; {len(shares) - len(some):,} without",
        )
    )  # fmt: skip
    distances = [d for s in samples if (d := source_distance(s, finest)) is not None and d > 0]
    charts.append(Histogram(f"distance in voxels of {finest}³", distances))
    for title, costs in (
        ("seconds per mesh", [outcome.seconds for outcome in data.outcomes]),
        ("peak memory (MB)", [outcome.peak_mb for outcome in data.outcomes]),
    ):
        known = [float(cost) for cost in costs if cost > 0]
        charts.append(Histogram(title, known, of=("mesh", "meshes")))
    cards = "".join(histogram_card(chart) for chart in charts)
    return f'<div class="charts">{cards}</div>' if cards else ""


def _contents(data: DataFolder) -> str:
    samples = data.index.samples
    flags = Counter(flag for sample in samples for flag in sample.flags)
    left = [
        _counts("Flags", flags, FLAGS),
        _params(data.index.params),
    ]
    right = [
        _counts("Splits", Counter(s.split for s in samples) if _held_out(data) else Counter()),
        _counts("Licences", Counter(s.licence or "unknown" for s in samples)),
        _counts("Families", Counter(s.family for s in samples if s.family)),
    ]
    columns = "".join(f"<div>{''.join(cards)}</div>" for cards in (left, right) if any(cards))
    return f'<div class="facts">{columns}</div>' if columns else ""


def _held_out(data: DataFolder) -> bool:
    return any(sample.split != "train" for sample in data.index.samples)


def _counts(title: str, counts: Counter[str], meanings: Mapping[str, str] | None = None) -> str:
    if not counts:
        return ""
    known = meanings or {}
    rows = "".join(
        f"<dt>{escape(plain(name, 60))}</dt><dd>{count:,}"
        + (f" <small>{escape(known[name])}</small>" if name in known else "")
        + "</dd>"
        for name, count in counts.most_common(MOST_KINDS)
    )
    rest = len(counts) - MOST_KINDS
    more = f'<p class="fine">and {rest:,} more</p>' if rest > 0 else ""
    return f'<div class="card"><h3>{title}</h3><dl>{rows}</dl>{more}</div>'


def _params(params: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(plain(key, 60))}</dt><dd>{escape(plain(value, 200))}</dd>"
        for key, value in _flat(params).items()
    )
    return f'<div class="card"><h3>Parameters of prepare</h3><dl>{rows}</dl></div>' if rows else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            rows[f"{prefix}{key}"] = value
    return rows

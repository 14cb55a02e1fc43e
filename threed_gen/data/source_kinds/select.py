"""Choosing assets before any work is done: by licence, score, flags and number.

What is left out is counted by the first rule that leaves it out, and the counts are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from threed_gen.data.source_kinds.asset import Asset, Source
from threed_gen.data.source_kinds.licences import canonical
from threed_gen.data.tags import Tag, is_set
from threed_gen.errors import UserError


@dataclass(frozen=True)
class Selection:
    """The rules. A rule that is not given leaves nothing out."""

    licences: tuple[str, ...] = ()  # only these; an asset without a licence is left out
    min_score: float | None = None  # an asset without a score is left out
    exclude: tuple[str, ...] = ()  # flags: tags that are 1, true or yes
    limit: int | None = None  # the first so many that pass the other rules

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: must be at least 1")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UserError("--min-score: must be a number")

    def why_not(self, licence: str | None, tags: Mapping[str, Tag]) -> str | None:
        """The rule that leaves such an asset out; None keeps it."""
        if self.licences and (
            licence is None or canonical(licence) not in map(canonical, self.licences)
        ):
            return "licence"
        if self.min_score is not None:
            score = tags.get("score")
            if not isinstance(score, float) or score < self.min_score:
                return "score" if isinstance(score, float) else "no score"
        return next((flag for flag in self.exclude if is_set(tags.get(flag))), None)


class SelectedSource:
    """The assets of a source that pass; `left_out` counts the others by rule."""

    def __init__(self, source: Source, selection: Selection) -> None:
        self.source, self.selection = source, selection
        self.assets: list[Asset] = []
        counts: Counter[str] = Counter()
        flags: set[str] = set()
        for number, asset in enumerate(source):
            if len(self.assets) == selection.limit:
                counts["limit"] = len(source) - number
                break
            flags.update(asset.tags)
            rule = selection.why_not(asset.licence, asset.tags)
            if rule is None:
                self.assets.append(asset)
            else:
                counts[rule] += 1
        self.left_out = dict(counts.most_common())
        unknown = sorted(set(selection.exclude) - flags)
        if unknown:
            known = ", ".join(sorted(flags)) or "none at all"
            raise UserError(
                f"--exclude {unknown[0]}: no asset has such a tag (there are: {known[:300]})"
            )
        if not self.assets:
            raise UserError(f"the selection leaves nothing: {self}; give wider rules")

    def describe(self) -> dict[str, Any]:
        """A selection may be widened or narrowed: it changes no payload."""
        return self.source.describe()

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)

    def __len__(self) -> int:
        return len(self.assets)

    def __str__(self) -> str:
        told = ", ".join(f"{rule} {count:,}" for rule, count in self.left_out.items())
        return f"{len(self.assets):,} of {len(self.source):,} assets (left out: {told or 'none'})"

"""Which samples of an index a run sees: the rules of `data.filter`, applied when it is opened.

The rules look at the index alone, so every rank and every resumed run sees the same list, and
numbers of samples, the plan of an epoch and validation all refer to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from threed_gen.data.config import FilterConfig
from threed_gen.data.index import SampleEntry
from threed_gen.data.source_kinds.licences import canonical
from threed_gen.data.split import split_of
from threed_gen.data.tags import is_set
from threed_gen.errors import UserError


class NothingLeftError(UserError):
    """The rules leave no sample at all."""


def filtered(
    samples: Sequence[SampleEntry], rules: FilterConfig, path: Path
) -> tuple[list[SampleEntry], dict[str, int]]:
    """The samples that pass, in their order, and how many each rule left out.

    A sample counts under the first rule that leaves it out. NothingLeftError if none is left.
    """
    kept: list[SampleEntry] = []
    left_out: Counter[str] = Counter()
    for sample in samples:
        rule = _why_not(sample, rules)
        if rule is None:
            kept.append(sample)
        else:
            left_out[rule] += 1
    if samples and not kept:
        raise nothing_left(path, len(samples), dict(left_out.most_common()))
    return kept, dict(left_out.most_common())


def nothing_left(path: Path | str, count: int, left_out: dict[str, int]) -> NothingLeftError:
    """The error where the rules leave none of `count` samples of the index `path`."""
    return NothingLeftError(
        f"{path}: data.filter leaves none of the {count:,} samples: "
        f"{told(left_out)}; loosen these rules"
    )


def told(left_out: dict[str, int]) -> str:
    """`split 3, max_sheet_share 12`: for a line of the log."""
    return ", ".join(f"{rule} {count:,}" for rule, count in left_out.items())


def _why_not(sample: SampleEntry, rules: FilterConfig) -> str | None:
    if rules.split != "all":
        share = rules.held_out_share
        split = sample.split if share is None else split_of(sample.id, share)
        if split != rules.split:
            return "split"
    if rules.licences is not None:
        names = {canonical(name) for name in rules.licences}
        if sample.licence is None or canonical(sample.licence) not in names:
            return "licences"
    if rules.min_score is not None:
        score = sample.tags.get("score")
        if not isinstance(score, (int, float)) or score < rules.min_score:
            return "min_score"
    for flag in rules.exclude_flags:
        if flag in sample.flags or is_set(sample.tags.get(flag)):
            return f"exclude_flags.{flag}"
    for rule, most in (
        ("sheet_share", rules.max_sheet_share),
        ("interior_share", rules.max_interior_share),
    ):
        if most is None:
            continue
        share = worst_share(sample, rule)
        if share is None:
            return f"max_{rule} (not in the index)"
        if share > most:
            return f"max_{rule}"
    return None


def worst_share(sample: SampleEntry, share: str) -> float | None:
    """The largest value of a share over the stored resolutions; None where one is not known."""
    grids = sample.info.get("grids", {})
    values = [grids.get(str(resolution), {}).get(share) for resolution in sample.grids]
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    return max(numbers) if numbers and len(numbers) == len(values) else None

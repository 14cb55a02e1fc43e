"""`data.filter` on columns: the rules of `filter.py`, on all samples at once.

A sample counts under the first rule that leaves it out, as there; tests compare the two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from threed_gen.data.column_index import SHARES, SPLITS, count_of, ids_of, names_of
from threed_gen.data.columns import Columns
from threed_gen.data.config import FilterConfig
from threed_gen.data.filter import nothing_left
from threed_gen.data.source_kinds.licences import canonical
from threed_gen.data.split import split_of

Mask = NDArray[np.bool_]


def choose(
    columns: Columns, rules: FilterConfig, path: Path | str
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Numbers of the samples that pass, ascending, and how many each rule left out.

    NothingLeftError, naming the index `path`, if none passes.
    """
    count = count_of(columns)
    first: dict[str, tuple[int, int]] = {}  # rule → (- samples, the first of them)
    left = np.ones(count, dtype=bool)
    for rule, fails in _rules(columns, rules):
        fails &= left
        if lost := int(fails.sum()):
            first[rule] = -lost, int(fails.argmax())
            left &= ~fails
    # As a Counter lists them that has seen the samples one by one.
    left_out = {rule: -first[rule][0] for rule in sorted(first, key=lambda rule: first[rule])}
    if count and not left.any():
        raise nothing_left(path, count, left_out)
    return np.flatnonzero(left).astype(np.int64), left_out


def _rules(columns: Columns, rules: FilterConfig) -> list[tuple[str, Mask]]:
    """Each rule's name and the samples that fail it, in the order in which they are asked."""
    names, found = names_of(columns), []
    if rules.split != "all":
        found.append(("split", _other_split(columns, rules)))
    if rules.licences is not None:
        wanted = {canonical(name) for name in rules.licences}
        allowed = [False, *(canonical(name) in wanted for name in names["licences"])]
        found.append(("licences", ~np.array(allowed)[columns["licence"]]))
    if rules.min_score is not None:
        low = columns["score"] < rules.min_score
        found.append(("min_score", ~columns["has_score"] | low))
    codes = {flag: code for code, flag in enumerate(names["flags"])}
    up = [flag for flag in rules.exclude_flags if flag in codes]
    found += [(f"exclude_flags.{flag}", _has(columns, codes[flag])) for flag in up]
    for share, most in zip(SHARES, (rules.max_sheet_share, rules.max_interior_share), strict=True):
        if most is not None:
            known = columns[f"has_{share}"]
            found.append((f"max_{share} (not in the index)", ~known))
            found.append((f"max_{share}", known & (columns[share] > most)))
    return found


def _other_split(columns: Columns, rules: FilterConfig) -> Mask:
    wanted, share = SPLITS.index(rules.split), rules.held_out_share
    if share is None:
        return columns["split"] != wanted
    splits = (SPLITS.index(split_of(name, share)) for name in ids_of(columns))
    return np.fromiter(splits, np.uint8, count_of(columns)) != wanted


def _has(columns: Columns, code: int) -> Mask:
    """The samples whose list of flags has this one."""
    where = np.flatnonzero(columns["flags"] == code)
    has = np.zeros(count_of(columns), dtype=bool)
    has[np.searchsorted(columns["flags_end"], where, side="right")] = True
    return has

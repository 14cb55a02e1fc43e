"""Slurm's short form of node names: `gpu[01-03,07],login` is five names.

Ranks read it themselves: not every compute node has `scontrol`.
"""

from __future__ import annotations

import itertools
import re

_PART = re.compile(r"((?:[^\[\],]|\[[^\[\]]*\])+)(?:,|$)")  # up to a comma outside brackets
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand(text: str) -> list[str]:
    """Every name in order; ValueError when the brackets make no sense."""
    names: list[str] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a list of nodes")
        names += _expand_part(match[1])
        position = match.end()
    return names


def _expand_part(part: str) -> list[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)  # literal, ranges, literal, ranges, … literal
    choices = [_numbers(piece) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return ["".join(words) for words in itertools.product(*choices)]


def _numbers(text: str) -> list[str]:
    """`08-10,12` → 08 09 10 12: zeros in front stay."""
    found: list[str] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"[{text}] is not a list of numbers")
        width = len(first)
        found += [f"{number:0{width}d}" for number in range(int(first), int(last or first) + 1)]
    return found


def tasks_per_node(text: str) -> list[int]:
    """Slurm's `4(x2),3` → 4 4 3."""
    counts: list[int] = []
    for item in text.split(","):
        match = _REPEATED.fullmatch(item)
        if match is None:
            raise ValueError(f"{text!r} does not say how many tasks each node has")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def shorten(names: list[str]) -> str:
    """The first and last few of many names, for people."""
    if len(names) <= 6:
        return " ".join(names)
    return f"{' '.join(names[:3])} … {' '.join(names[-2:])}"

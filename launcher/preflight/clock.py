"""Clocks: how far each node's is from the others'.

Logs of several nodes are read side by side, Slurm's and file systems' credentials expire by the
clock, and files from a clock that is ahead seem to change in the future. The first program asks
each node for its time over the channel it has anyway; half of the way there and back is the
uncertainty, and the quickest of several answers counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

from launcher.preflight.finding import Finding, Verdicts, bad

TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Offset:
    """A node's clock minus the asking one's, give or take `doubt` seconds."""

    seconds: float
    doubt: float


def offset(asked: float, answered: float, theirs: float) -> Offset:
    """From three times: of the question and the answer here, and what the node said."""
    return Offset(theirs - (asked + answered) / 2, (answered - asked) / 2)


def compare(offsets: Mapping[str, Offset]) -> Verdicts:
    """Against the middle one, as nobody knows which clock is right."""
    if not offsets:
        return []
    middle = median_low(own.seconds for own in offsets.values())
    verdicts = []
    for node, own in offsets.items():
        away = own.seconds - middle
        if abs(away) <= TOLERANCE_SECONDS + own.doubt:
            verdicts.append((node, Finding("clock", "ok", f"{away:+.2f} s")))
            continue
        text = (
            f"clock is {abs(away):.0f} s {'ahead of' if away > 0 else 'behind'} the others: start "
            "chronyd (or ntpd) on it"
        )
        verdicts.append((node, bad("clock", text)))
    return verdicts

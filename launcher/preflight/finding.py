"""What a check has found on one node: the form in which nodes report and the table shows it.

A check comes in two halves. On the node, `look` measures and judges what the node can judge alone.
Where the first program knows what all nodes have found, a `compare` judges what only a comparison
can tell: the one clock that is ahead, the one index that differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# In the order of the table's columns.
CHECKS = (
    "up", "GPU", "versions", "disk", "shared", "names", "clock", "locks", "ports", "all-reduce",
    "data",
)  # fmt: skip
State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One check on one node.

    Attributes:
        state: bad keeps the job from starting; a note does not.
        found: a few words or a figure, for the table.
        trouble: what is wrong and the cure, one line that follows the node's name.
        facts: what the comparison of all nodes needs, as JSON takes it.
    """

    check: str
    state: State
    found: str = ""
    trouble: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def bad(check: str, trouble: str) -> Finding:
    """A failure."""
    return Finding(check, "bad", trouble=" ".join(trouble.split()))


# What has been found on each node, in the nodes' order.
ByNode = Mapping[str, list[Finding]]
# What a comparison adds: the node's name and the finding.
Verdicts = list[tuple[str, Finding]]


def facts_of(found: ByNode, check: str) -> dict[str, dict[str, Any]]:
    """Facts of one check by node; nodes that have none are left out."""
    gathered: dict[str, dict[str, Any]] = {}
    for node, findings in found.items():
        for finding in findings:
            if finding.check == check and finding.facts:
                gathered.setdefault(node, {}).update(finding.facts)
    return gathered


def most(values: Mapping[str, Any]) -> Any:
    """The value that most nodes have; of equally many, the one of the first node."""
    return Counter(values.values()).most_common(1)[0][0]


def others(values: Mapping[str, Any], value: Any) -> str:
    """Who has the value that most have: for `n3: … , the others have …`."""
    having = [node for node, own in values.items() if own == value]
    return f"{having[0]} has" if len(having) == 1 else "the others have"

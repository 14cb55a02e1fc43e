"""The data's index: readable on every node, whole, and the same.

Every rank plans its epoch from the index alone. Ranks that read different ones ask for different
samples, and the run is wrong without an error. Line 1 of an index has the sha256 of what follows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from launcher.preflight.finding import ByNode, Finding, Verdicts, bad, facts_of, most, others

INDEX = "index.jsonl"  # beside the folder of shards
PIECE = 2**20


def look(data: Path) -> Finding:
    """The digest of the whole index, and whether it is what its first line promises."""
    path = data / INDEX
    try:
        digest, promised, real = digests(path)
    except OSError as err:
        return bad("data", f"cannot read {path}: {err.strerror}: mount it there, or correct --data")
    if promised is not None and promised != real:
        return bad(
            "data", f"{path} is damaged or was changed: copy it anew, or run `threed-gen prepare` "
            "on it again",
        )  # fmt: skip
    return Finding("data", "ok", digest[:8], facts={"sha256": digest, "path": str(path)})


def digests(path: Path) -> tuple[str, str | None, str]:
    """sha256 of all, the one that line 1 promises for the rest (None: no such line), the real."""
    whole, rest = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        first = file.readline(PIECE)
        whole.update(first)
        while piece := file.read(PIECE):
            whole.update(piece)
            rest.update(piece)
    try:
        head = json.loads(first)
    except ValueError:
        head = None
    promised = head.get("sha256") if isinstance(head, dict) else None
    return whole.hexdigest(), promised, rest.hexdigest()


def compare(found: ByNode) -> Verdicts:
    """Nodes whose index is another than most nodes'."""
    facts = facts_of(found, "data")
    sums = {node: own["sha256"] for node, own in facts.items()}
    if len(set(sums.values())) < 2:
        return []
    usual = most(sums)
    verdicts = []
    for node, own in sums.items():
        if own != usual:
            text = f"{facts[node]['path']} has sha256 {own[:8]}, {others(sums, usual)} {usual[:8]}"
            verdicts.append((node, bad("data", f"{text}: copy the same index there")))
    return verdicts

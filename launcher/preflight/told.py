"""What was found, for people: a table of nodes and checks, and a line with the cure per failure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from launcher.preflight.asked import Result
from launcher.preflight.finding import CHECKS, Finding

RED, PLAIN = "\033[31m", "\033[0m"
MARK = {"ok": "✓", "note": "·", "bad": "✗"}
MANY = 16  # more nodes than this: those without a failure share a row


def told(result: Result, *, colour: bool) -> str:
    """Table, failures, verdict."""
    parts = [_table(result, colour)]
    failures = [f"{node}: {finding.trouble}" for node, finding in result.failures]
    parts += [f"{RED}{line}{PLAIN}" if colour else line for line in failures]
    count = len(result.found)
    nodes = f"{count} node{'s' * (count != 1)}"
    ill = len({node for node, _ in result.failures})
    verdict = f"{nodes} looked at in {result.seconds:.0f} s: "
    verdict += "all is well" if not ill else f"{ill} not fit to start on"
    return "\n".join([*parts, verdict])


def as_json(result: Result) -> str:
    """The same for programs."""
    record = {
        "healthy": not result.failures,
        "seconds": round(result.seconds, 2),
        "nodes": {node: [asdict(f) for f in found] for node, found in result.found.items()},
    }
    return json.dumps(record, indent=2)


def _table(result: Result, colour: bool) -> str:
    ill = {node for node, _ in result.failures}
    many = len(result.found) > MANY
    shown = [node for node in result.found if node in ill or not many]
    rows = [[node, *(_cell(result.found[node], check) for check in CHECKS)] for node in shown]
    if left := len(result.found) - len(shown):
        rows.append([f"{left} others", *("✓" for _ in CHECKS)])
    table = [["node", *CHECKS], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    rule = ["─" * width for width in widths]
    lines = [_line(row, widths, colour) for row in [table[0], rule, *rows]]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], colour: bool) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
    if colour:
        cells = [f"{RED}{cell}{PLAIN}" if cell.startswith("✗") else cell for cell in cells]
    return "  ".join(cells).rstrip()


def _cell(findings: Sequence[Finding], check: str) -> str:
    """The worst of a check, and its figures; a dash where nothing was looked at."""
    own = [finding for finding in findings if finding.check == check]
    if not own:
        return "–"
    worst = max(own, key=lambda f: ["ok", "note", "bad"].index(f.state)).state
    if worst == "bad":
        return MARK[worst]
    figures = ", ".join(finding.found for finding in own if finding.found)
    return f"{MARK[worst]} {figures}".rstrip()

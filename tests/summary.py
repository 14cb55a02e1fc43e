"""Turn pytest's junit files into the page that is committed as docs/test-full.md.

python tests/summary.py build/test-full/*.xml > docs/test-full.md
"""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from threed_gen.machine import cores

ROOT = Path(__file__).resolve().parents[1]
SLOWEST = 15


@dataclass(frozen=True)
class Case:
    """One test: where, how it ended ("passed", "failed", "skipped"), how long, why."""

    file: str
    name: str
    outcome: str
    seconds: float
    message: str


def read(path: Path) -> list[Case]:
    """The cases of one junit file; an unreadable file counts as one failure, not as nothing."""
    try:
        tree = ET.parse(path)
    except (OSError, ET.ParseError) as err:
        return [Case(str(path), "(no results)", "failed", 0.0, str(err))]
    cases = []
    for node in tree.iter("testcase"):
        outcome, message = "passed", ""
        for child in node:
            if child.tag in ("failure", "error"):
                outcome, message = "failed", child.get("message", "")
            elif child.tag == "skipped":
                outcome, message = "skipped", child.get("message", "")
        file = node.get("classname", "").replace(".", "/")
        seconds = float(node.get("time", "0"))
        cases.append(Case(file, node.get("name", ""), outcome, seconds, message))
    return cases


def page(cases: list[Case], commit: str, today: str) -> str:
    """The summary as Markdown."""
    outcomes = Counter(case.outcome for case in cases)
    minutes = sum(case.seconds for case in cases) / 60
    counts = ", ".join(f"{outcomes[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    lines = [
        "# The last full test run",
        "",
        f"Written by `make test-full` on {today}, commit `{commit}`, {machine()}.",
        "",
        f"**{counts}**; {minutes:.1f} minutes of tests.",
        "",
        "| tests | passed | failed | skipped | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for file in sorted({case.file for case in cases}):
        own = [case for case in cases if case.file == file]
        count = Counter(case.outcome for case in own)
        seconds = sum(case.seconds for case in own)
        lines.append(
            f"| {file} | {count['passed']} | {count['failed']} | {count['skipped']} "
            f"| {seconds:.1f} |"
        )
    for outcome, title in (("failed", "Failed"), ("skipped", "Skipped, and why")):
        chosen = [case for case in cases if case.outcome == outcome]
        if chosen:
            lines += ["", f"## {title}", ""]
            lines += [f"- {case.file} `{case.name}`: {one_line(case.message)}" for case in chosen]
    lines += ["", f"## The {SLOWEST} slowest", "", "| seconds | test |", "|---:|---|"]
    for case in sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]:
        lines.append(f"| {case.seconds:.1f} | {case.file} `{case.name}` |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What the tests ran on, in a few words."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "deepspeed"))
    system = f"{platform.system()} {platform.machine()}, {cores()} cores"
    return f"{system}, Python {platform.python_version()}, {versions}"


def one_line(text: str, limit: int = 160) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"


def main(files: list[str]) -> int:
    """Exit code 1 when a test failed or no test ran."""
    cases = [case for file in files for case in read(Path(file))]
    git = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    print(page(cases, done.stdout.strip() or "none", f"{datetime.date.today():%Y-%m-%d}"), end="")
    return 1 if not cases or any(case.outcome == "failed" for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

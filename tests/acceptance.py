"""Hold a finished quickstart against the figures it has to reach.

python tests/acceptance.py runs/quickstart/ss_vae
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHAPES = 10
RESOLUTION = 32


def failures(verdict: Mapping[str, Any]) -> list[str]:
    """What an evaluation.json falls short of; empty when all is well."""
    mean, worst = verdict["mean"], verdict["worst"]
    checks = [
        ("shapes", len(verdict["shapes"]), ">=", SHAPES),
        ("resolution", verdict["resolution"], ">=", RESOLUTION),
        ("mean IoU", mean["iou"], ">=", 0.92),
        ("worst IoU", worst["iou"], ">=", 0.85),
        ("mean F1@0.02", mean["f@0.02"], ">=", 0.93),
        ("mean error in voxels", mean["error_voxels"], "<=", 0.15),
        ("undefined metrics", verdict["undefined"], "<=", 0),
    ]
    return [
        f"{name}: {value} should be {sign} {limit}"
        for name, value, sign, limit in checks
        # A metric that is None, or NaN, meets nothing.
        if value is None or not (value >= limit if sign == ">=" else value <= limit)
    ]


def main(run: Path) -> int:
    """Exit code 0 when the run reaches everything and its page is there."""
    problems = failures(json.loads((run / "evaluation.json").read_text(encoding="utf-8")))
    if not (run / "report.html").is_file():
        problems.append("report.html is missing")
    for problem in problems:
        print(f"acceptance: {problem}")
    if not problems:
        print("acceptance: all figures reached")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Hold a finished quickstart against the figures it has to reach.

python tests/acceptance.py runs/quickstart
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trimesh

SHAPES = 10
RESOLUTION = 32
GENERATED, RIGHT = 8, 6  # pictures that training never saw, and how many must be recognised


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
    return missed(checks)


def generated_failures(summary: Mapping[str, Any], mesh: trimesh.Trimesh) -> list[str]:
    """What generating from unseen pictures falls short of: the verdict, and generated.glb."""
    nearest, low, high = summary["nearest"], *mesh.bounds
    checks = [
        ("pictures", nearest["of"], ">=", GENERATED),
        ("meshes nearest to their own shape", nearest["right"], ">=", RIGHT),
        ("meshes that could not be measured", len(summary["problems"]), "<=", 0),
        ("faces of generated.glb", len(mesh.faces), ">=", 1000),
        ("its volume (normals look outward)", mesh.volume, ">=", 1e-3),
        ("its lowest corner", float(min(low)), ">=", -0.5),
        ("its highest corner", float(max(high)), "<=", 0.5),
    ]
    return missed(checks)


def curve_failures(out: Path) -> list[str]:
    """Where a whole quickstart left its expected curves."""
    from threed_gen.evaluation.expected import WINDOWS
    from threed_gen.quickstart.corridor import TASKS
    from threed_gen.quickstart.expected import outside, windows

    there = [(f"windows of {task}", windows(task, out / task), ">=", WINDOWS) for task in TASKS]
    return missed(there) + outside(lambda task: out / task)


def missed(checks: Sequence[tuple[str, Any, str, float]]) -> list[str]:
    """The checks (name, value, sign, limit) that do not hold, in words."""
    return [
        f"{name}: {value} should be {sign} {limit}"
        for name, value, sign, limit in checks
        # A metric that is None, or NaN, meets nothing.
        if value is None or not (value >= limit if sign == ">=" else value <= limit)
    ]


def main(out: Path) -> int:
    """Exit code 0 when the quickstart reaches everything and its pages are there."""
    problems = failures(_json(out / "ss_vae" / "evaluation.json"))
    mesh = trimesh.load_mesh(out / "generated.glb", process=True)
    problems += generated_failures(_json(out / "generated.evaluated" / "summary.json"), mesh)
    problems += curve_failures(out)
    for folder in (".", "ss_vae", "structure_dit", "ss_dit"):
        if not (out / folder / "report.html").is_file():
            problems.append(f"{folder}/report.html is missing")
    for problem in problems:
        print(f"acceptance: {problem}")
    if not problems:
        print("acceptance: all figures reached")
    return 1 if problems else 0


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The tables of the page: metrics of every shape, configuration, environment."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from threed_gen.report.run_data import Record, RunData
from threed_gen.report.text import number

# key in evaluation.json, heading, digits
COLUMNS = (
    ("iou", "IoU", 4),
    ("sign_accuracy", "sign", 4),
    ("error_voxels", "error (voxels)", 3),
    ("f@0.02", "F@0.02", 4),
    ("f@0.01", "F@0.01", 4),
    ("f@0.005", "F@0.005", 4),
    ("f@0.001", "F@0.001", 4),
    ("cd_l1", "CD-L1", 5),
    ("hd95", "HD95", 4),
    ("nc", "normals", 4),
    ("holes", "open edges", 0),
)

SOURCE_COLUMNS = (("f@0.02", "F@0.02", 4), ("cd_l1", "CD-L1", 5), ("nc", "normals", 4))


def metrics_section(run: RunData) -> str:
    """Every evaluated shape in one table."""
    shapes = [s for s in run.evaluation.get("shapes") or [] if isinstance(s, dict)]
    if not shapes:
        return ""
    columns = [c for c in COLUMNS if any(c[0] in s for s in shapes)]
    sourced = any(isinstance(s.get("source"), dict) for s in shapes)
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in columns)
    if sourced:
        head += "".join(
            f"<th{' class=apart' if k == 0 else ''}>{escape(c[1])} to source</th>"
            for k, c in enumerate(SOURCE_COLUMNS)
        )

    def line(label: str, row: Mapping[str, Any]) -> str:
        cells = "".join(f"<td>{number(row.get(key), digits)}</td>" for key, _, digits in columns)
        if sourced:
            source = row.get("source") or {}
            cells += "".join(
                f"<td{' class=apart' if k == 0 else ''}>{number(source.get(key), digits)}</td>"
                for k, (key, _, digits) in enumerate(SOURCE_COLUMNS)
            )
        return f'<tr><td title="{escape(label)}">{escape(label)}</td>{cells}</tr>'

    body = "".join(line(str(s.get("name", "?")), s) for s in shapes)
    foot = line("mean", run.evaluation.get("mean") or {})
    foot += line("worst", run.evaluation.get("worst") or {})
    samples = run.evaluation.get("samples")
    points = f"{samples:,} " if isinstance(samples, int) else ""
    return (
        f'<p class="intro">{_weights(run.evaluation)}</p>'
        f'<div class="card scroll"><table><thead><tr><th>shape</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table></div>"
        '<p class="fine">IoU, sign and error compare the fields on the stored grid: IoU of the '
        "inside over all voxels of active bricks, error over the band. The others compare surfaces "
        f"with marching cubes of the stored grid: {points}points per side, exact distance to the "
        "other side's triangles, after scaling the true box to [-1, 1]; F@0.02 is the F-score at "
        "1 % of the box's longest side. “To source” compares with the mesh the shape was made "
        "from.</p>"
    )


def config_section(run: RunData) -> str:
    """Config, its difference to the parent, and the machine."""
    left = right = ""
    if run.changes:
        text = escape("\n".join(run.changes))
        left += f'<div class="card"><h3>Changed against the recipe</h3><pre>{text}</pre></div>'
    if run.environment:
        rows = "".join(
            f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>"
            for key, value in _flat(run.environment).items()
        )
        left += f'<div class="card"><h3>Environment</h3><dl>{rows}</dl></div>'
    if run.config_text:
        text = escape(run.config_text)
        right = f'<div class="card"><h3>config.yaml</h3><pre>{text}</pre></div>'
    columns = "".join(f"<div>{column}</div>" for column in (left, right) if column)
    return f'<div class="facts">{columns}</div>' if columns else ""


def _weights(evaluation: Record) -> str:
    parts = []
    if evaluation.get("weights"):
        kind = {"ema": "moving average (EMA) of the weights"}.get(str(evaluation["weights"]))
        parts.append(kind or f"weights: {evaluation['weights']}")
    if isinstance(evaluation.get("step"), int):
        parts.append(f"step {evaluation['step']:,}")
    if evaluation.get("resolution"):
        parts.append(f"{evaluation['resolution']}³ grid")
    if evaluation.get("undefined"):
        parts.append(f"{evaluation['undefined']} undefined numbers, shown as –")
    return escape(" · ".join(parts))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ") if not prefix else str(key)
        if isinstance(value, Mapping):
            rows.update(_flat(value, f"{key}."))
        elif value is not None:
            rows[name] = str(value)
    return rows

"""The top of the page: where the run stands, the numbers that matter, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from threed_gen.report.charts import series
from threed_gen.report.curves import Chart, last_value, short
from threed_gen.report.document import Tile, alert
from threed_gen.report.run_data import Record, RunData
from threed_gen.report.text import number


def steps_of(run: RunData) -> tuple[int, int | None]:
    """Steps done and steps planned."""
    train = run.config.get("train")
    planned = train.get("steps") if isinstance(train, dict) else None
    done = run.metrics[-1]["step"] if run.metrics else 0
    return done, planned if isinstance(planned, int) else None


def badge(run: RunData) -> str:
    """Where the run stands, in two words."""
    done, planned = steps_of(run)
    if run.finished or (planned is not None and done >= planned):
        return '<span class="badge done">finished</span>'
    if done == 0:
        return '<span class="badge">no step yet</span>'
    share = f" · {100 * done / planned:.0f} %" if planned else ""
    return f'<span class="badge">step {done:,}{share}</span>'


def lead(run: RunData) -> str:
    """One line on where and how the run was made."""
    env = run.environment
    parts = [str(env[key]) for key in ("device_name", "platform") if env.get(key)]
    ranks = env.get("ranks")
    if isinstance(ranks, int):
        parts.insert(1, f"{ranks} rank{'s' if ranks > 1 else ''}")
    train = run.config.get("train")
    if isinstance(train, dict) and "precision" in train:
        parts.append(f"{train['precision']}, ZeRO {train.get('zero_stage', 0)}")
    return escape(" · ".join(parts))


def tiles(run: RunData) -> list[Tile]:
    """The few numbers that matter first."""
    done, planned = steps_of(run)
    found: list[Tile] = []
    mean, worst = run.evaluation.get("mean") or {}, run.evaluation.get("worst") or {}
    if not mean and run.validation:
        mean, worst = run.validation[-1].get("mean") or {}, run.validation[-1].get("worst") or {}
    for key, title, digits in (
        ("iou", "mean IoU", 3), ("f@0.02", "mean F-score (F@0.02)", 3),
        ("error_voxels", "mean error in voxels", 3),
        ("relative_l2", "relative L2 of samples", 3), ("loss", "validation loss", 4),
    ):  # fmt: skip
        if key in mean:
            aside = f"worst {number(worst.get(key), digits)}"
            found.append((number(mean[key], digits), title, aside))
    loss = Chart("loss", [series(run.metrics, "loss", "loss")], smooth=True)
    if (value := last_value(loss)) is not None:
        found.append((short(float(f"{value:.3g}")), "loss", f"from {_first(run.metrics)}"))
    of = f"of {planned:,}" if planned else ""
    found.append((f"{done:,}", "steps", of))
    seconds = [r["seconds"] for r in run.metrics if isinstance(r.get("seconds"), int | float)]
    if seconds:
        found.append((_duration(sum(seconds)), "in training steps", f"{_pace(seconds)} each"))
    return found


def alerts(run: RunData) -> str:
    """What training warned of, and what could not be read of the run."""
    blocks = []
    if run.warnings:
        items = [
            f"step {w.get('step', '?')}: {w.get('warning', w.get('message', ''))}"
            for w in run.warnings
        ]
        blocks.append(alert("Warnings while training", items))
    if run.notes:
        blocks.append(alert("Read from the run directory", run.notes, "quiet"))
    return "".join(blocks)


def _first(records: Sequence[Record]) -> str:
    values = [r["loss"] for r in records[:10] if isinstance(r.get("loss"), int | float)]
    return short(float(f"{sum(values) / len(values):.3g}")) if values else "?"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _pace(seconds: Sequence[float]) -> str:
    median = sorted(seconds)[len(seconds) // 2]
    return f"{median * 1000:.0f} ms" if median < 1 else f"{median:.1f} s"

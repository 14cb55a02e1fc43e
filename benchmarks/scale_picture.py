"""docs/scaling.svg: efficiency and useful time over the number of GPUs, from `scale_sim.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f6feb", "#bf3989", "#1a7f37", "#9a6700", "#57606a")
WIDTH, HEIGHT, LEFT, TOP = 330.0, 190.0, 52.0, 46.0
Curves = Mapping[str, Sequence[tuple[int, float]]]


def picture(efficiency: Curves, useful: Curves) -> str:
    """Two panels beside each other; every point is simulated."""
    panels = [
        _panel(LEFT, "Computing, of the step (ZeRO 2, MFU 0.35)", efficiency, 0.0),
        _panel(2 * LEFT + WIDTH + 30, "Useful time, SS-DiT 520 M (stops as Llama 3)", useful, 0.9),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 380" font-size="12" '
        'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{LEFT}" y="18" font-weight="bold">Simulated, not measured</text>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(left: float, title: str, curves: Curves, lowest: float) -> str:
    counts = sorted({gpus for points in curves.values() for gpus, _ in points})
    first, last = math.log2(counts[0]), math.log2(counts[-1])

    def across(gpus: int) -> float:
        return left + (math.log2(gpus) - first) / (last - first) * WIDTH

    def down(share: float) -> float:
        return TOP + (1 - (share - lowest) / (1 - lowest)) * HEIGHT

    parts = [f'<text x="{left}" y="{TOP - 8}">{escape(title)}</text>']
    for number in range(6):
        share = lowest + (1 - lowest) * number / 5
        y = down(share)
        parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.2f}</text>')
    for gpus in counts:
        text = f'<text x="{across(gpus):.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">'
        parts.append(f"{text}{gpus:,}</text>")
    middle = left + WIDTH / 2
    parts.append(f'<text x="{middle}" y="{TOP + HEIGHT + 32}" text-anchor="middle">GPUs</text>')
    for number, ((label, points), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        line = " ".join(f"{across(gpus):.1f},{down(share):.1f}" for gpus, share in points)
        style = f'fill="none" stroke="{colour}" stroke-width="2"'
        parts.append(f'<polyline points="{line}" {style}/>')
        y = TOP + HEIGHT + 54 + 16 * number
        parts.append(f'<path d="M{left} {y - 4}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 24}" y="{y}">{escape(label)}</text>')
    return "\n".join(parts)

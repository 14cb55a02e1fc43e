"""Draw docs/ssa.svg: what one token sees in the three branches, and how choices become tiles.

    .venv/bin/python docs/draw_ssa.py

Everything in the picture is computed by `kernels.ssa` on a flat slice of voxels: attention per
cell, the chosen blocks, the window, the walk of four neighbouring queries, a block's readers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kernels.ssa import SSAPlan, build_plan, reference, sort_coords
from kernels.ssa.gpu.lists import selection_readers, selection_walk

EDGE = 64  # voxels along the slice
PIXEL = 4.5
PANEL = EDGE * PIXEL
TOP_K = 4
QUERIES = 4
INK, GREY, FAINT, RED = "#22303c", "#8894a0", "#dde3e8", "#d1495b"
BRANCHES = ("#2a7f9e", "#e08e1b", "#5a8f3c")


def bean() -> tuple[SSAPlan, Tensor]:
    """A band of voxels around a bean-shaped curve, one voxel deep, and their (x, y)."""
    axis = (torch.arange(EDGE) + 0.5) / EDGE * 2 - 1
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    angle, radius = torch.atan2(y, x), (x * x + y * y).sqrt()
    curve = 0.62 + 0.17 * torch.cos(2 * angle + 0.6) + 0.08 * torch.cos(3 * angle)
    xy = ((radius - curve).abs() < 0.07).nonzero()
    zero = xy.new_zeros(len(xy), 1)
    coords = sort_coords(torch.cat([zero, xy, zero], 1))[0]
    return build_plan(coords, shift=4), coords[:, 1:3]


def features(plan: SSAPlan, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and compressed keys that look alike at some distances: waves of the position."""
    generator = torch.Generator().manual_seed(11)
    waves = torch.randn(2, 16, generator=generator) * 0.09
    mix = torch.randn(32, 2 * 16, generator=generator) * 0.5
    cells = torch.zeros(plan.num_cells, 2)
    cells.index_add_(0, plan.cells.of_row.long(), xy.float())
    cells /= plan.cells.starts.diff()[:, None]
    q, k = (torch.cat([(p @ waves).sin(), (p @ waves).cos()], 1) for p in (xy.float(), cells))
    q = (q @ mix).unflatten(1, (2, 16)) * 1.5
    return q, (k @ mix[:, :16])[:, None]


def main() -> None:
    """Write docs/ssa.svg."""
    plan, xy = bean()
    q, k_cmp = features(plan, xy)
    _, lse = reference.compression(q, k_cmp, k_cmp, plan)
    blocks = reference.select_blocks(q, k_cmp, lse, plan, TOP_K)
    tile = plan.samples[0].bounds[len(plan.samples[0].bounds) // 3].tolist()
    query = tile[0] + 1
    logits = torch.einsum("hd,md->hm", q[query], k_cmp[:, 0]) * 16**-0.5
    share = (logits - lse[query][:, None]).exp().mean(0)

    parts = [_panel(0, "compression", "every cell of the sample, coarsely")]
    parts += [_voxels(0, xy, range(len(xy)), FAINT)]
    for cell, strength in enumerate((share / share.max()).tolist()):
        corner = (xy[int(plan.cells.starts[cell])] // 4 * 4).tolist()
        parts.append(_square(0, corner, 4, BRANCHES[0], 0.08 + 0.9 * strength))
    parts += [_panel(1, "selection", f"all tokens of the {TOP_K} blocks it looked at most")]
    parts += [_voxels(1, xy, range(len(xy)), FAINT)]
    for block in blocks[query, 0].tolist():
        rows = range(*plan.blocks.starts[block : block + 2].tolist())
        parts.append(_voxels(1, xy, rows, BRANCHES[1]))
        parts.append(_frame(1, (xy[rows[0]] // 8 * 8).tolist(), 8, BRANCHES[1]))
    parts += [_panel(2, "window", "its neighbours; every other layer shifts the grid")]
    parts += [_voxels(2, xy, range(len(xy)), FAINT)]
    table = plan.near
    number = int(
        torch.searchsorted(table.starts[1:].contiguous(), table.inverse[query], right=True)
    )
    mine = table.order[slice(*table.starts[number : number + 2].tolist())]
    parts.append(_voxels(2, xy, mine.tolist(), BRANCHES[2]))
    parts.append(_frame(2, ((xy[query] + 4) // 8 * 8 - 4).tolist(), 8, BRANCHES[2]))
    parts += [_square(i, xy[query].tolist(), 1, RED, 1.0, grow=1.2) for i in range(3)]
    parts += _tiles(plan, blocks, tile)
    width, height = 3 * (PANEL + 30) + 30, PANEL + 375
    Path(__file__).with_name("ssa.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n",
        encoding="utf-8",
    )


def _tiles(plan: SSAPlan, blocks: Tensor, tile: list[int]) -> list[str]:
    """The walk of the tile, and the readers of the block that most queries chose."""
    walk = selection_walk(blocks.int(), plan, QUERIES)
    place = walk.tiles.tolist().index(tile)
    runs = [run for run in walk.runs[:, 0, place].T.tolist() if run[1]]
    top, left, step = PANEL + 120.0, 225.0, 86.0
    out = [_text(30, top - 30, "From block ids to tiles", 17, INK, bold=True)]
    out.append(
        _text(30, top - 10, f"{QUERIES} neighbouring queries walk the union of their lists; "
              "a bit per query masks what it did not choose", 12, GREY)
    )  # fmt: skip
    for bit in range(QUERIES):
        y = top + 18 + bit * 24
        ids = ", ".join(map(str, blocks[tile[0] + bit, 0].tolist()))
        out.append(_text(30, y + 13, f"query {tile[0] + bit}: blocks {ids}", 11, INK))
        for column, (_, _, bits) in enumerate(runs):
            fill = BRANCHES[1] if bits >> bit & 1 else FAINT
            x = left + column * step
            out.append(_bar(x, y, step - 6, 18, fill))
    for column, (first, behind, _) in enumerate(runs):
        x = left + column * step + (step - 6) / 2
        block = int(plan.blocks.of_row[first])
        out.append(_text(x, top + 12, f"block {block}", 11, INK, middle=True))
        out.append(_text(x, top + 132, f"rows {first}–{behind - 1}", 9, GREY, middle=True))
    out.append(_text(30, top + 132, "one step: at most 64 rows", 12, GREY))

    readers = selection_readers(blocks.int(), plan, 64)
    count = (readers.part[0, :, 1] - readers.part[0, :, 0]).tolist()
    hub = max(range(len(count)), key=count.__getitem__)
    first, behind = readers.first_item[0, hub : hub + 2].tolist()
    y = top + 200
    out.append(
        _text(30, y - 30, "Backwards: a tile of keys gathers its readers", 17, INK, bold=True)
    )
    out.append(
        _text(30, y - 10, f"block {int(plan.block_tiles.run[hub])} was chosen by {count[hub]} "
              f"queries: {behind - first} work items of at most 64, added up in their order",
              12, GREY)
    )  # fmt: skip
    begin = int(readers.part[0, hub, 0])
    x = 30.0
    for item in range(behind - first):
        here = min(64, count[hub] - 64 * item)
        rows = readers.rows[begin + 64 * item : begin + 64 * item + here].tolist()
        wide = here * 2.2
        out.append(_bar(x, y + 4, wide, 26, "#5f9fb6"))
        if here > 40:
            out.append(_text(x + 5, y + 21, f"queries {rows[0]} … {rows[-1]}", 10, "white"))
        x += wide + 8
    return out


def _panel(number: int, title: str, line: str) -> str:
    x = 30 + number * (PANEL + 30)
    frame = f'<rect x="{x}" y="60" width="{PANEL}" height="{PANEL}" fill="none" stroke="{FAINT}"/>'
    heading = _text(x, 28, title, 17, BRANCHES[number], bold=True)
    return heading + _text(x, 48, line, 12, GREY) + frame


def _voxels(panel: int, xy: Tensor, rows: range | list[int], colour: str) -> str:
    side = PIXEL - 0.5
    corners = (_corner(panel, xy[row].tolist(), 1) for row in rows)
    path = "".join(f"M{x + 0.25:.1f} {y + 0.25:.1f}h{side}v{side}h-{side}z" for x, y in corners)
    return f'<path d="{path}" fill="{colour}"/>'


def _corner(panel: int, at: list[int], size: float) -> tuple[float, float]:
    return 30 + panel * (PANEL + 30) + at[0] * PIXEL, 60 + PANEL - (at[1] + size) * PIXEL


def _square(
    panel: int, at: list[int], size: float, colour: str, opacity: float, grow: float = 0.0
) -> str:
    x, y = _corner(panel, at, size)
    edge = size * PIXEL + 2 * grow
    return (
        f'<rect x="{x - grow:.1f}" y="{y - grow:.1f}" width="{edge:.1f}" height="{edge:.1f}" '
        f'fill="{colour}" fill-opacity="{opacity:.2f}"/>'
    )


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}" rx="2"/>'
    )


def _frame(panel: int, at: list[int], size: float, colour: str) -> str:
    x, y = _corner(panel, at, size)
    edge = size * PIXEL
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{edge:.1f}" height="{edge:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="1.5"/>'
    )


def _text(
    x: float, y: float, words: str, size: int, colour: str, bold: bool = False, middle: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{weight}{anchor}>'
        f"{words}</text>"
    )


if __name__ == "__main__":
    main()

"""Things from the joiner and the mason: chair, table, bench, stairs, house."""

from __future__ import annotations

import numpy as np

from threed_gen.data.procedural.solids import Box, Floats, boxes
from threed_gen.geometry.mesh import Mesh


def _legs(width: float, depth: float, thick: float, top: float) -> list[Box]:
    return [
        (x, x + thick, y, y + thick, 0.0, top)
        for x in (0.0, width - thick)
        for y in (0.0, depth - thick)
    ]


def chair(rng: np.random.Generator) -> Mesh:
    """Four legs, a seat, a back of posts and rails or of one board."""
    width, depth = rng.uniform(0.5, 0.62), rng.uniform(0.5, 0.6)
    seat, leg = rng.uniform(0.42, 0.5), rng.uniform(0.11, 0.13)
    plate, back = rng.uniform(0.1, 0.13), rng.uniform(0.11, 0.13)
    behind = depth - back
    solid: list[Box] = [*_legs(width, depth, leg, seat), (0, width, 0, depth, seat - plate, seat)]
    if rng.random() < 0.5:
        solid.append((0, width, behind, depth, seat, 1.0))
    else:
        solid += [(x, x + leg, behind, depth, seat, 1.0) for x in (0.0, width - leg)]
        solid.append((0, width, behind, depth, 1.0 - rng.uniform(0.16, 0.26), 1.0))
    return boxes(solid)


def table(rng: np.random.Generator) -> Mesh:
    """A table top on four legs, some with a shelf between them."""
    depth, height = rng.uniform(0.55, 0.8), rng.uniform(0.5, 0.7)
    leg, plate = rng.uniform(0.11, 0.14), rng.uniform(0.1, 0.13)
    over = rng.uniform(0.0, 0.06)
    solid: list[Box] = [
        (x, x + leg, y, y + leg, 0.0, height)
        for x in (over, 1.0 - over - leg)
        for y in (over, depth - over - leg)
    ]
    solid.append((0, 1, 0, depth, height - plate, height))
    if rng.random() < 0.4:
        low = rng.uniform(0.1, 0.15)
        solid.append((over, 1 - over, over, depth - over, low, low + 0.11))
    return boxes(solid)


def bench(rng: np.random.Generator) -> Mesh:
    """A bench: two side boards, a seat, a back rest on most."""
    depth, seat = rng.uniform(0.34, 0.42), rng.uniform(0.34, 0.42)
    side, plate = rng.uniform(0.11, 0.15), rng.uniform(0.11, 0.13)
    inset = rng.uniform(0.0, 0.12)
    solid: list[Box] = [(x, x + side, 0.02, depth, 0.0, seat) for x in (inset, 1 - inset - side)]
    solid.append((0, 1, 0, depth, seat - plate, seat))
    if rng.random() < 0.7:
        high = seat + rng.uniform(0.26, 0.38)
        solid.append((0, 1, depth - 0.12, depth, seat, high))
    return boxes(solid)


def stairs(rng: np.random.Generator) -> Mesh:
    """A flight of solid steps, some between two side walls."""
    steps = int(rng.integers(3, 6))
    width, height = rng.uniform(0.45, 0.7), rng.uniform(0.6, 0.9)
    solid: list[Box] = [
        (k / steps, 1.0, 0.0, width, 0.0, height * (k + 1) / steps) for k in range(steps)
    ]
    if rng.random() < 0.4:
        solid.append((1 - 1 / steps, 1.0, 0.0, width, 0.0, height + 0.15))
    return boxes(solid)


def house(rng: np.random.Generator) -> Mesh:
    """A house with a pitched roof, a door recess and two window recesses."""
    width, depth = rng.uniform(0.6, 0.75), rng.uniform(0.75, 1.0)
    eaves, ridge = rng.uniform(0.38, 0.48), rng.uniform(0.22, 0.32)
    over, deep = rng.uniform(0.03, 0.06), 0.08
    door = rng.uniform(0.14, 0.18)
    middle = width / 2
    solid: list[Box] = [
        (0, width, 0, depth, 0, eaves),
        (-over, width + over, -over, depth + over, eaves, eaves + 0.1),
        (middle - 0.05, middle + 0.05, -over, depth + over, eaves + 0.1, eaves + 0.1 + ridge),
        (-over, width + over, -over, depth + over, eaves + 0.1, eaves + 0.1 + ridge),
    ]
    holes: list[Box] = [(middle - door / 2, middle + door / 2, 0, deep, 0, 0.28)]
    for side, end in ((0.0, deep), (width - deep, width)):
        holes.append((side, end, depth * 0.38, depth * 0.62, 0.15, 0.3))

    def pitch(points: Floats) -> Floats:
        moved = points.copy()
        top = moved[:, 2] > eaves + 0.1 + 1e-9
        slope = (moved[top, 0] - middle) / (middle + over)
        moved[top, 0] = middle + slope * 0.06  # a narrow ridge, not a knife's edge
        return moved

    return boxes(solid, holes, warp=pitch)

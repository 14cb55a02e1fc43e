"""Things from the workshop: gear, bolt, pipe elbow, ring, knot, star, bracket, hammer, jack."""

from __future__ import annotations

import numpy as np

from threed_gen.data.procedural.solids import Box, Floats, boxes, circle, level, loft, sweep
from threed_gen.geometry.mesh import Mesh


def gear(rng: np.random.Generator) -> Mesh:
    """A spur gear with trapezoid teeth and a round bore."""
    teeth = int(rng.integers(7, 12))
    depth, bore = rng.uniform(0.1, 0.13), rng.uniform(0.13, 0.2)
    height = rng.uniform(0.16, 0.3)
    per_tooth = 12
    place = np.arange(teeth * per_tooth) % per_tooth / per_tooth
    rise = np.clip((0.5 - np.abs(place - 0.5)) * 6 - 0.9, 0, 1)  # flat root, flank, flat top
    ring = circle(teeth * per_tooth)
    outer = ring * (0.5 - depth + depth * rise)[:, None]
    return loft(
        np.stack([level(outer, 0), level(outer, height), level(ring * bore, height),
                  level(ring * bore, 0)]),
        closed=True,
    )  # fmt: skip


def bolt(rng: np.random.Generator) -> Mesh:
    """A bolt: six-sided head, round shank with a few coarse grooves, chamfered end."""
    head, shank = rng.uniform(0.26, 0.34), rng.uniform(0.12, 0.16)
    thick, grooves = rng.uniform(0.16, 0.24), int(rng.integers(2, 5))
    segments = 48
    angle = np.arange(segments) * (2 * np.pi / segments)
    hexagon = np.cos(np.pi / 6) / np.cos((angle + np.pi / 6) % (np.pi / 3) - np.pi / 6)
    ring = circle(segments)
    rings = [level(ring * head * 0.84, 0), level(ring * hexagon[:, None] * head, 0.03)]
    rings += [level(ring * hexagon[:, None] * head, thick), level(ring * shank, thick)]
    plain = thick + (1 - thick) * 0.35
    pitch = (0.95 - plain) / grooves
    for k in range(grooves):
        for part, radius in ((0.0, 1.0), (0.5, 0.78)):
            rings.append(level(ring * shank * radius, plain + pitch * (k + part)))
    rings += [level(ring * shank, 0.95), level(ring * shank * 0.7, 1.0)]
    return loft(np.stack(rings))


def elbow(rng: np.random.Generator) -> Mesh:
    """A bent pipe with a flange at either end, open through its whole length."""
    bend, outer = rng.uniform(0.42, 0.55), rng.uniform(0.2, 0.24)
    wall, flange = rng.uniform(0.1, 0.12), rng.uniform(0.07, 0.1)
    angle, thick = rng.uniform(np.pi / 3, np.pi / 2), rng.uniform(0.12, 0.16)
    turn = np.linspace(0, angle, 20)
    arc = np.stack([bend * (1 - np.cos(turn)), 0 * turn, bend * np.sin(turn)], axis=1)
    first, last = np.asarray([0.0, 0.0, 1.0]), np.asarray([np.sin(angle), 0.0, np.cos(angle)])
    before = [arc[0] - first * (thick + 0.02), arc[0] - first * 0.021, arc[0] - first * 0.02]
    after = [arc[-1] + last * 0.02, arc[-1] + last * 0.021, arc[-1] + last * (thick + 0.02)]
    path = np.concatenate([before, arc, after])
    radius = np.full(len(path), outer)
    radius[[0, 1, -1, -2]] += flange
    ring = circle(40)
    skin = sweep(path, radius[:, None, None] * ring)
    bore = sweep(path, np.full((len(path), 1, 1), outer - wall) * ring)
    return loft(np.concatenate([skin, bore[::-1]]), closed=True)


def ring(rng: np.random.Generator) -> Mesh:
    """A ring whose section is anything from a round to a flat oval, with a waved rim."""
    thick, flat = rng.uniform(0.09, 0.13), rng.uniform(0.6, 1.6)
    waves, swing = int(rng.integers(2, 6)), rng.uniform(0.0, 0.05)
    turn = np.arange(96) * (2 * np.pi / 96)
    radius = 0.5 - thick + swing * np.sin(waves * turn)
    path = np.stack([radius * np.cos(turn), radius * np.sin(turn), 0 * turn], axis=1)
    across = circle(24) * thick
    rings = np.stack(
        [
            np.stack(
                [
                    centre[0] + across[:, 0] * np.cos(t),
                    centre[1] + across[:, 0] * np.sin(t),
                    flat * across[:, 1],
                ],
                axis=1,
            )
            for centre, t in zip(path, turn, strict=True)
        ]
    )
    return loft(rings, closed=True)


def knot(rng: np.random.Generator) -> Mesh:
    """A trefoil knot in a round tube."""
    thick, height = rng.uniform(0.1, 0.12), rng.uniform(0.2, 0.28)
    wide = rng.uniform(0.95, 1.1)
    t = np.arange(160) * (2 * np.pi / 160)
    path: Floats = np.stack(
        [
            0.17 * wide * (np.sin(t) + 2 * np.sin(2 * t)),
            0.17 * (np.cos(t) - 2 * np.cos(2 * t)),
            -height * np.sin(3 * t),
        ],
        axis=1,
    )
    return loft(sweep(path, np.broadcast_to(circle(24) * thick, (160, 24, 2)), True), closed=True)


def star(rng: np.random.Generator) -> Mesh:
    """A star with a raised middle."""
    points = int(rng.integers(4, 7))
    inner, height = rng.uniform(0.22, 0.3), rng.uniform(0.14, 0.22)
    raised = rng.uniform(0.06, 0.14)
    per_point = 8
    place = np.arange(points * per_point) % per_point / per_point
    outline = circle(points * per_point)
    # straight sides: radius along the line from a tip to a notch
    half = np.pi / points
    turn = np.abs(((place + 0.5) % 1) - 0.5) * 2 * half
    radius = 0.5 * inner * np.sin(half) / (0.5 * np.sin(turn) + inner * np.sin(half - turn))
    outline = outline * radius[:, None]
    return loft(
        np.stack(
            [level(outline, 0), level(outline, height), level(outline * 0.25, height + raised)]
        )
    )


def bracket(rng: np.random.Generator) -> Mesh:
    """An angle bracket: two plates, a stepped rib between them, a slot in each plate."""
    thick, width = rng.uniform(0.13, 0.17), rng.uniform(0.5, 0.75)
    length = rng.uniform(0.7, 1.0)
    rib = rng.uniform(0.12, 0.16)
    reach = rng.uniform(0.3, 0.4)
    steps = 6
    middle = width / 2
    heights = thick + reach * (1 - np.arange(1, steps + 1) / steps)
    solid: list[Box] = [
        (0, length, 0, width, 0, thick),
        (0, thick, 0, width, 0, 1.0),
        *(
            (
                thick + reach * k / steps,
                thick + reach * (k + 1) / steps,
                middle - rib / 2,
                middle + rib / 2,
                thick,
                float(heights[k]) + 0.05,
            )
            for k in range(steps)
        ),
    ]
    slot = width * 0.17
    far = thick + reach + 0.1
    holes: list[Box] = [(0, thick, middle - slot, middle + slot, far, min(far + 0.3, 0.88))]
    if length - far > 0.3:
        holes.append((far, length - 0.12, middle - slot, middle + slot, 0, thick))
    return boxes(solid, holes)


def hammer(rng: np.random.Generator) -> Mesh:
    """A hammer: handle, square face, wedge."""
    grip, head = rng.uniform(0.055, 0.07), rng.uniform(0.09, 0.12)
    length, wedge = rng.uniform(0.2, 0.26), rng.uniform(0.22, 0.3)
    face = head + rng.uniform(0.015, 0.03)
    top = 1.0 - head
    tip = rng.uniform(0.25, 0.45)

    def taper(points: Floats) -> Floats:
        moved = points.copy()
        far = moved[:, 0] < -head - 0.01
        moved[far, 2] = top + (moved[far, 2] - top) * tip - head * 0.35
        return moved

    return boxes(
        [
            (-grip, grip, -grip, grip, 0.0, top),
            (-head, length, -head * 0.8, head * 0.8, top - head, top + head),
            (length, length + 0.12, -face, face, top - face, top + face),
            (-head - wedge, -head, -head * 0.8, head * 0.8, top - head, top + head),
        ],
        warp=taper,
    )


def jack(rng: np.random.Generator) -> Mesh:
    """Three bars crossing at right angles, thicker at their ends."""
    bar, knob = rng.uniform(0.07, 0.1), rng.uniform(0.11, 0.16)
    solid: list[Box] = []
    for axis in range(3):
        reach, cap = rng.uniform(0.42, 0.5), rng.uniform(0.12, 0.17)
        for low, high, size in (
            (-reach, reach, bar),
            (-reach, cap - reach, knob),
            (reach - cap, reach, knob),
        ):
            sides = [(-size, size)] * 3
            sides[axis] = (low, high)
            (x0, x1), (y0, y1), (z0, z1) = sides
            solid.append((x0, x1, y0, y1, z0, z1))
    return boxes(solid)

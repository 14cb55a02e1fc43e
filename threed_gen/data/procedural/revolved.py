"""Things from the potter's wheel and the lathe: mug, bottle, lamp, vase, bowl, pawn, goblet.

Lengths are relative to a height of about 1; walls are at least a tenth of the longest side, so
that a grid of 32³ still resolves them with three voxels.
"""

from __future__ import annotations

import numpy as np

from threed_gen.data.procedural.solids import (
    Floats,
    bridge,
    circle,
    level,
    loft,
    outwards,
    revolve,
)
from threed_gen.geometry.mesh import Mesh

SEGMENTS = 48


def mug(rng: np.random.Generator) -> Mesh:
    """A straight or slightly conical cup with a handle."""
    radius, height = rng.uniform(0.36, 0.44), rng.uniform(0.8, 1.0)
    wall, floor = rng.uniform(0.12, 0.14), rng.uniform(0.12, 0.16)
    flare = rng.uniform(0.9, 1.0)  # radius at the bottom, relative to the rim
    thick, reach = rng.uniform(0.065, 0.08), rng.uniform(0.24, 0.32)
    # The outer wall needs rows of vertices where the handle begins and ends.
    low, high = height * rng.uniform(0.2, 0.28), height * rng.uniform(0.72, 0.8)
    rows = [low - thick, low, low + thick, height / 2, high - thick, high, high + thick]
    outer = [(radius * (flare + (1 - flare) * z / height), z) for z in rows]
    inner = [(radius * flare - wall, floor + 0.03), (radius - wall, height)]
    rim = [(radius, height - 0.02), (radius - 0.02, height)]
    floor_edge = (radius * flare - wall - 0.03, floor)
    profile = [(radius * flare - 0.03, 0.0), (radius * flare, 0.03), *outer, *rim, *inner[::-1]]
    ring = circle(SEGMENTS)
    rings = np.stack([level(ring * r, z) for r, z in [*profile, floor_edge]])
    body = loft(rings)
    # loft merges equal positions and renumbers, so find the patches again by where they are.
    step = 2 * np.pi / SEGMENTS
    columns = [-1, 0, 1]

    def patch(rows_of_patch: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        wanted = [
            [[r * np.cos(c * step), r * np.sin(c * step), z] for c in columns]
            for r, z in (outer[k] for k in rows_of_patch)
        ]
        flat = np.asarray(wanted).reshape(-1, 3)
        distance = ((body.vertices[None] - flat[:, None]) ** 2).sum(axis=2)
        return distance.argmin(axis=1).reshape(len(wanted), len(columns))

    top, bottom = patch([6, 5, 4]), patch([0, 1, 2])  # carried half round: top row meets bottom row
    turn = np.linspace(0, np.pi, 15)[1:-1]
    middle, half = (low + high) / 2, (high - low) / 2
    root = radius * 0.97
    path = np.stack(
        [root + 0.02 + reach * np.sin(turn), 0 * turn, middle + half * np.cos(turn)], axis=1
    )
    across = np.stack([np.cos(turn) * half / reach, 0 * turn, np.sin(turn)], axis=1)
    across /= np.linalg.norm(across, axis=1, keepdims=True)  # away from the middle of the bow
    section = [(1, -1), (1.25, 0), (1, 1), (0, 1.25), (-1, 1), (-1.25, 0), (-1, -1), (0, -1.25)]
    normal = np.stack([across[:, 2], 0 * turn, across[:, 0]], axis=1)
    tube = np.stack(
        [path + thick * (a * normal + b * np.asarray([0.0, 1.0, 0.0])) for a, b in section],
        axis=1,
    )
    vertices, faces = bridge(body.vertices, body.faces, top, bottom, tube)
    return outwards(vertices, faces)


def bottle(rng: np.random.Generator) -> Mesh:
    """A solid bottle: body, shoulder, neck, lip."""
    body, neck = rng.uniform(0.17, 0.24), rng.uniform(0.065, 0.09)
    shoulder, throat = rng.uniform(0.45, 0.58), rng.uniform(0.68, 0.78)
    curve = np.linspace(0, 1, 10)
    blend = body + (neck - body) * (1 - np.cos(np.pi * curve)) / 2
    lip = neck + rng.uniform(0.02, 0.035)
    return revolve(
        [
            (0.0, 0.0),
            (body - 0.03, 0.0),
            (body, 0.03),
            *zip(blend.tolist(), (shoulder + (throat - shoulder) * curve).tolist(), strict=True),
            (neck, 0.9),
            (lip, 0.91),
            (lip, 1.0),
            (0.0, 1.0),
        ],
        SEGMENTS,
    )


def lamp(rng: np.random.Generator) -> Mesh:
    """A table lamp: round foot, stem with a bulge, conical shade."""
    foot, stem = rng.uniform(0.22, 0.3), rng.uniform(0.055, 0.07)
    bottom, top = rng.uniform(0.34, 0.42), rng.uniform(0.18, 0.26)
    shade = rng.uniform(0.52, 0.6)
    bulge, middle = rng.uniform(0.1, 0.15), shade * rng.uniform(0.45, 0.6)
    swell = [
        (stem + (bulge - stem) * float(np.sin(t)), middle - 0.1 * float(np.cos(t)))
        for t in np.linspace(0, np.pi, 9)
    ]
    profile = [(0.0, 0.0), (foot, 0.0), (foot, 0.07), (foot - 0.05, 0.11), (stem, 0.12)]
    profile += [*swell, (stem, shade), (bottom, shade), (top, 1.0), (0.0, 1.0)]
    return revolve(profile, SEGMENTS)


def vase(rng: np.random.Generator) -> Mesh:
    """A hollow vase whose radius swings with its height."""
    base, swing = rng.uniform(0.22, 0.27), rng.uniform(0.06, 0.13)
    phase, waves = rng.uniform(-0.6, 0.4), rng.uniform(0.7, 1.1)
    wall, floor = rng.uniform(0.11, 0.13), rng.uniform(0.12, 0.18)
    z = np.linspace(0, 1, 25)
    radius = base + swing * np.sin(2 * np.pi * waves * z + phase) * (0.6 + 0.4 * z)
    inner_z = np.linspace(1, floor, 22)
    inner = np.maximum(np.interp(inner_z, z, radius) - wall, 0.05)
    return revolve(
        np.concatenate(
            [[[0.0, 0.0]], np.stack([radius, z], 1), np.stack([inner, inner_z], 1), [[0.0, floor]]]
        ),
        SEGMENTS,
    )


def bowl(rng: np.random.Generator) -> Mesh:
    """A round bowl on a foot ring."""
    wall, foot = rng.uniform(0.11, 0.13), rng.uniform(0.16, 0.22)
    depth, rise = rng.uniform(0.38, 0.5), rng.uniform(0.08, 0.12)
    turn = np.linspace(0, np.pi / 2, 14)
    outer = np.stack([0.5 * np.sin(turn), rise + depth * (1 - np.cos(turn))], 1)
    outer = outer[outer[:, 0] > foot]
    inner = np.stack(
        [(0.5 - wall) * np.sin(turn), rise + depth - (depth - wall) * np.cos(turn)], 1
    )[::-1]
    return revolve(
        np.concatenate([[[0.0, 0.0], [foot, 0.0], [foot, outer[0, 1]]], outer, inner]), SEGMENTS
    )


def pawn(rng: np.random.Generator) -> Mesh:
    """A chess pawn: stepped foot, waist, collar, round head."""
    foot, waist = rng.uniform(0.25, 0.31), rng.uniform(0.085, 0.12)
    collar, head = rng.uniform(0.16, 0.21), rng.uniform(0.15, 0.19)
    neck = 1.0 - 2 * head
    body = np.linspace(0, 1, 10)
    cone = waist + (foot - 0.06 - waist) * (1 - body) ** 2
    ball = np.linspace(-1.1, np.pi / 2, 16)
    return revolve(
        np.concatenate(
            [
                [[0.0, 0.0], [foot, 0.0], [foot, 0.08], [foot - 0.04, 0.12]],
                np.stack([cone, 0.12 + (neck - 0.24) * body], 1),
                [[collar, neck - 0.11], [collar, neck - 0.02], [waist, neck]],
                np.stack([head * np.cos(ball), 1 - head + head * np.sin(ball)], 1),
            ]
        ),
        SEGMENTS,
    )


def goblet(rng: np.random.Generator) -> Mesh:
    """A drinking cup on a stem."""
    cup, foot = rng.uniform(0.3, 0.38), rng.uniform(0.24, 0.32)
    stem, wall = rng.uniform(0.06, 0.08), rng.uniform(0.11, 0.13)
    bottom = rng.uniform(0.42, 0.5)
    turn = np.linspace(0.25, np.pi / 2, 12)
    outer: Floats = np.stack([cup * np.sin(turn), 0.85 - (0.85 - bottom) * np.cos(turn)], 1)
    deep = np.linspace(np.pi / 2, 0, 12)
    inner = np.stack([(cup - wall) * np.sin(deep), 0.85 - (0.85 - bottom - wall) * np.cos(deep)], 1)
    return revolve(
        np.concatenate(
            [
                [[0.0, 0.0], [foot, 0.0], [foot, 0.06], [stem + 0.02, 0.13], [stem, 0.18]],
                [[stem, bottom]],
                outer,
                [[cup, 1.0], [cup - wall, 1.0]],
                inner,
            ]
        ),
        SEGMENTS,
    )

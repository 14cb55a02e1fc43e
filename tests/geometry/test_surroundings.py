"""Ground planes and skyboxes go; whatever might be part of the object stays."""

from __future__ import annotations

import numpy as np
import pytest

from tests.geometry.shapes import box, icosphere, inverted, join
from threed_gen.geometry.mesh import Mesh, merge_by_position
from threed_gen.geometry.surroundings import drop_surroundings

Y, Z = 1, 2


def sheet(half: float, height: float, steps: int = 1, axis: int = Y) -> Mesh:
    """A level square of steps × steps quads."""
    line = np.linspace(-half, half, steps + 1)
    u, v = np.meshgrid(line, line, indexing="ij")
    points = np.insert(np.stack([u, v], axis=-1).reshape(-1, 2), axis, height, axis=1)
    i, j = (k.reshape(-1) for k in np.meshgrid(range(steps), range(steps), indexing="ij"))
    a = i * (steps + 1) + j
    quads = np.stack([a, a + 1, a + steps + 2, a + steps + 1], axis=1)
    return Mesh(points, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


def dome(radius: float) -> Mesh:
    ball = icosphere(radius, 3)
    upper = (ball.triangles[..., Y] >= -1e-9).all(axis=1)
    return inverted(Mesh(ball.vertices, ball.faces[upper]))


def moved(mesh: Mesh, by: tuple[float, float, float]) -> Mesh:
    return Mesh(mesh.vertices + np.array(by), mesh.faces)


OBJECT = box((-1, 0, -1), (1, 2, 1))


def outcome(*parts: Mesh, up: int | None = Y) -> tuple[int, set[str]]:
    whole = merge_by_position(join(*parts))
    kept, flags = drop_surroundings(whole, up)
    if not flags:
        assert kept is whole
    assert len(np.unique(kept.faces)) == len(kept.vertices)
    return len(kept.faces), set(flags)


GROUND, SKY = {"ground_plane_dropped"}, {"skybox_dropped"}


@pytest.mark.parametrize(
    ("parts", "flags"),
    [
        ([sheet(2.01, 0)], GROUND),
        ([sheet(300, -0.001, 20)], GROUND),
        ([sheet(50, 0.3)], GROUND),  # the object is sunk into it a little
        ([sheet(50, -3)], GROUND),  # or floats above it
        ([inverted(sheet(50, 0))], GROUND),
        ([inverted(box((-6, -1, -6), (6, 11, 6)))], SKY),
        ([box((-16, -1, -16), (16, 31, 16))], SKY),
        ([dome(50)], SKY),
        ([inverted(icosphere(50, 3))], SKY),
        ([sheet(50, 0), inverted(box((-50, -20, -50), (50, 80, 50)))], GROUND | SKY),
        ([sheet(20, 0), dome(60)], GROUND | SKY),
        ([sheet(20, 0), sheet(60, -0.1)], GROUND),
    ],
)  # fmt: skip
def test_surroundings_are_dropped(parts: list[Mesh], flags: set[str]) -> None:
    assert outcome(OBJECT, *parts) == (len(OBJECT.faces), flags)


PLATE = sheet(3, 1.0, 4)
LEGS = [box((x, 0, z), (x + 0.2, 1, z + 0.2)) for x in (-1, 0.8) for z in (-1, 0.8)]
ROOM = join(box((-5, 0, -5), (5, 5, 5)), inverted(box((-4.9, 0.1, -4.9), (4.9, 4.9, 4.9))))
WAVES = np.sin(np.arange(81))[:, None] * np.array([0, 0.1, 0])
RELIEF = Mesh(sheet(9, 0, 8).vertices + WAVES, sheet(9, 0, 8).faces)
EGG = inverted(icosphere(50, 3))
CASES = {
    "a ground that is not twice as large": [OBJECT, sheet(1.9, 0)],
    "a table of one sheet": [*LEGS, sheet(1.2, 1.0)],
    "a plate on a stand": [box((-0.2, 0, -0.2), (0.2, 1, 0.2)), PLATE],
    "a roof": [OBJECT, sheet(9, 2)],
    "a wall": [OBJECT, sheet(9, -1, axis=Z)],
    "a slab with thickness": [OBJECT, box((-9, -1, -9), (9, 0, 9))],
    "a ground beside the object": [OBJECT, moved(sheet(9, 0), (20, 0, 0))],
    "a ground that is one with the object": [
        Mesh(OBJECT.vertices, OBJECT.faces),
        Mesh(np.array([[-1, 0, -1], [1, 0, -1], [0, 0, -90]]), np.array([[0, 1, 2]])),
    ],
    "a relief": [OBJECT, RELIEF],
    "nothing but sheets": [sheet(1, 1), sheet(9, 0)],
    "a box around a ball": [icosphere(1.0, 2), box((-3, -3, -3), (3, 3, 3))],
    "a room with walls": [icosphere(0.6, 2, (0, 1, 0)), ROOM],
    "a glass ball around a thing": [box((-1, -1, -1), (1, 1, 1)), icosphere(8, 3)],
    "a box that does not contain all": [
        OBJECT, inverted(box((-1.2, -20, -20), (40, 20, 20))), box((-2, 0, 0), (-1.5, 1, 1))
    ],
    "a tall thin shaft": [OBJECT, inverted(box((-1.1, -1, -1.1), (1.1, 60, 1.1)))],
    "a wider shaft": [OBJECT, inverted(box((-1.5, -1, -1.5), (1.5, 19, 1.5)))],
    "an egg shell": [OBJECT, Mesh(EGG.vertices * [1, 1.5, 1], EGG.faces)],
    "a ball beside a ball": [icosphere(1, 2), icosphere(20, 3, (30, 0, 0))],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_may_be_part_of_the_object_stays(name: str) -> None:
    parts = CASES[name]
    assert outcome(*parts) == (sum(len(part.faces) for part in parts), set())


def test_up_is_needed_for_a_ground() -> None:
    assert outcome(OBJECT, sheet(50, 0), up=None)[1] == set()
    assert outcome(OBJECT, sheet(50, 0), up=Z)[1] == set()
    tall = box((-1, -1, 0), (1, 1, 2))
    assert outcome(tall, sheet(50, 0, axis=Z), up=Z)[1] == GROUND


def test_scattered_parts_count_together() -> None:
    """A ground under things that are spread over it is no more than twice their box."""
    spread = [box((x, 0, z), (x + 1, 1, z + 1)) for x in (-6, 5) for z in (-6, 5)]
    assert outcome(*spread, sheet(10, 0))[1] == set()
    assert outcome(*spread, sheet(13, 0))[1] == GROUND

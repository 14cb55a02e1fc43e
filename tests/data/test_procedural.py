"""Every procedural shape is one closed surface, the same for everyone, unlike its neighbours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from threed_gen.data.procedural.families import FAMILIES, make_mesh, shape_name
from threed_gen.data.procedural.solids import boxes, loft, revolve
from threed_gen.geometry.mesh import Mesh, edge_counts, half_edges, signed_volume

ROUNDS = 8


def _assert_closed(mesh: Mesh) -> None:
    _, uses = edge_counts(mesh.faces)
    assert (uses == 2).all()
    directed = half_edges(mesh.faces)
    assert len(np.unique(directed, axis=0)) == len(directed)  # neighbours agree on the outside
    assert np.isfinite(mesh.vertices).all()
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


@pytest.mark.parametrize("place", range(len(FAMILIES)), ids=list(FAMILIES))
def test_family(place: int) -> None:
    volumes = []
    for turn in range(ROUNDS):
        name, mesh = make_mesh(place + turn * len(FAMILIES), seed=turn % 3)
        assert name == f"{list(FAMILIES)[place]}_{turn:04d}"
        _assert_closed(mesh)
        low, high = mesh.bounds
        assert 0.5 < (high - low).max() < 1.6
        assert (high - low).min() > 0.1
        volumes.append(signed_volume(mesh))
        assert 0.01 < volumes[-1] / (high - low).prod() < 0.95
        assert len(mesh.faces) < 20_000
    assert len({round(volume, 9) for volume in volumes}) == ROUNDS


def test_shapes_are_reproducible_and_depend_on_the_seed() -> None:
    code = (
        "import hashlib\n"
        "from threed_gen.data.procedural.families import make_mesh\n"
        "for i in range(0, 60, 7):\n"
        "    n, m = make_mesh(i, 5)\n"
        "    print(n, hashlib.sha256(m.vertices.tobytes() + m.faces.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(runs) == 1
    a, b = make_mesh(0, 0)[1], make_mesh(0, 1)[1]
    assert a.vertices.shape != b.vertices.shape or not np.allclose(a.vertices, b.vertices)


def test_the_first_shapes_are_all_of_different_kinds() -> None:
    assert len(FAMILIES) >= 12
    first = [shape_name(index) for index in range(len(FAMILIES) * 2)]
    assert len({name.split("_")[0] for name in first[: len(FAMILIES)]}) == len(FAMILIES)
    assert len(set(first)) == len(first)
    with pytest.raises(ValueError, match="negative"):
        make_mesh(-1, 0)


def test_solids_have_their_volumes() -> None:
    cylinder = revolve([(0, 0), (0.5, 0), (0.5, 2), (0, 2)], 256)
    _assert_closed(cylinder)
    assert signed_volume(cylinder) == pytest.approx(np.pi * 0.5, rel=1e-3)
    cross = boxes([(0, 3, 1, 2, 1, 2), (1, 2, 0, 3, 1, 2), (1, 2, 1, 2, 0, 3)])
    _assert_closed(cross)
    assert signed_volume(cross) == pytest.approx(7)
    frame = boxes([(0, 3, 0, 3, 0, 1)], [(1, 2, 1, 2, 0, 1)])
    _assert_closed(frame)
    assert signed_volume(frame) == pytest.approx(8)
    angle = np.arange(64) * (2 * np.pi / 64)
    section = np.stack([2 + 0.5 * np.cos(angle), 0 * angle, 0.5 * np.sin(angle)], axis=1)
    turned = [
        section @ np.asarray([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]])
        for t in angle
    ]
    torus = loft(np.stack(turned), closed=True)
    _assert_closed(torus)
    assert signed_volume(torus) == pytest.approx(2 * np.pi**2 * 2 * 0.25, rel=1e-2)

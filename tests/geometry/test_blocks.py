"""Cells as cubes: their volume, their area, and that they are closed."""

from __future__ import annotations

import numpy as np
import pytest

from threed_gen.geometry.blocks import block_mesh
from threed_gen.geometry.mesh import Mesh, boundary_edge_count


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def test_one_cell_is_a_cube_in_its_place() -> None:
    mesh = block_mesh(np.array([[1, 0, 3]]), 4)
    assert len(mesh.vertices) == 8 and len(mesh.faces) == 12
    low, high = mesh.bounds
    assert low.tolist() == [0.25, 0.0, 0.75] and high.tolist() == [0.5, 0.25, 1.0]
    assert volume(mesh) == pytest.approx(1 / 64)  # positive: faces look outwards
    assert boundary_edge_count(mesh) == 0


def test_no_face_between_neighbours() -> None:
    mesh = block_mesh(np.array([[0, 0, 0], [0, 1, 0], [0, 1, 0]]), 2)
    assert len(mesh.faces) == 2 * 10 and volume(mesh) == pytest.approx(2 / 8)


def test_many_cells() -> None:
    """Volume and area counted by hand from the dense grid."""
    filled = np.random.default_rng(0).random((5, 5, 5)) < 0.4
    mesh = block_mesh(np.argwhere(filled), 5)
    padded = np.pad(filled, 1)
    sides = sum(int((np.diff(padded.astype(int), axis=axis) != 0).sum()) for axis in range(3))
    assert len(mesh.faces) == 2 * sides
    assert volume(mesh) == pytest.approx(filled.sum() / 125)
    assert boundary_edge_count(mesh) == 0


def test_no_cells() -> None:
    assert len(block_mesh(np.zeros((0, 3), np.int32), 8).faces) == 0

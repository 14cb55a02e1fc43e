"""Mesh questions: merging by position, closed or not, areas, volume, and the unit frame."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tests.geometry.shapes import box, icosphere, inverted
from threed_gen.geometry.frame import unit_frame
from threed_gen.geometry.mesh import (
    Mesh,
    MeshError,
    boundary_edge_count,
    face_areas,
    face_normals,
    is_watertight,
    merge_by_position,
    signed_volume,
)


def soup(mesh: Mesh) -> Mesh:
    return Mesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3))


def test_merging_closes_a_soup() -> None:
    loose = soup(icosphere(1.0, 2))
    assert boundary_edge_count(loose) == 3 * len(loose.faces)
    merged = merge_by_position(loose)
    assert len(merged.vertices) == 162
    assert boundary_edge_count(merged) == 0
    assert is_watertight(loose)
    np.testing.assert_allclose(merged.triangles, loose.triangles, atol=2e-8)


def test_merging_forgives_rounding_but_no_more() -> None:
    loose = soup(box())
    noise = np.random.default_rng(0).uniform(-1, 1, loose.vertices.shape)
    assert is_watertight(Mesh(loose.vertices + 1e-9 * noise, loose.faces))
    assert not is_watertight(Mesh(loose.vertices + 1e-5 * noise, loose.faces))
    negative_zero = Mesh(np.where(loose.vertices == 0, -0.0, loose.vertices), loose.faces)
    assert is_watertight(negative_zero)


def test_merging_drops_collapsed_faces_and_unused_vertices() -> None:
    cube = box()
    vertices = np.concatenate([cube.vertices, [[9, 9, 9], [0, 0, 0]]])
    faces = np.concatenate([cube.faces, [[0, 9, 1]]])
    merged = merge_by_position(Mesh(vertices, faces))
    np.testing.assert_array_equal(merged.vertices, cube.vertices)
    np.testing.assert_array_equal(merged.faces, cube.faces)


def test_areas_normals_volume() -> None:
    cube = box((0, 0, 0), (2, 3, 4))
    assert face_areas(cube).sum() == pytest.approx(2 * (6 + 8 + 12))
    assert signed_volume(cube) == pytest.approx(24)
    assert signed_volume(inverted(cube)) == pytest.approx(-24)
    outward = cube.triangles.mean(1) - [1, 1.5, 2]
    assert (np.einsum("ij,ij->i", face_normals(cube), outward) > 0).all()
    flat = Mesh(np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(face_normals(flat), 0)


def test_watertight_needs_faces_and_no_rim() -> None:
    assert is_watertight(box())
    assert not is_watertight(Mesh(box().vertices, box().faces[1:]))
    assert not is_watertight(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="vertices"):
        Mesh(np.zeros((3, 2)), np.zeros((1, 3), int))
    with pytest.raises(ValueError, match="faces"):
        Mesh(np.zeros((3, 3)), np.zeros((1, 4), int))


def test_unit_frame() -> None:
    mesh = Mesh(box().vertices * [8, 2, 4] + [1e6, 0, -3], box().faces)
    unit, scale, offset = unit_frame(mesh)
    low, high = unit.bounds
    np.testing.assert_allclose((low + high) / 2, 0.5)
    np.testing.assert_allclose(high - low, np.array([8, 2, 4]) / 8 * 0.95)
    np.testing.assert_allclose(unit.vertices * scale + np.array(offset), mesh.vertices)


def test_unused_vertices_do_not_move_the_frame() -> None:
    stray = Mesh(np.concatenate([box().vertices, [[1e9, 0, 0]]]), box().faces)
    assert unit_frame(stray)[1] == pytest.approx(1 / 0.95)


def test_mesh_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MeshError("a.stl: broken", "unreadable")))
    assert (str(error), error.reason) == ("a.stl: broken", "unreadable")

"""Files that other programs open: size, orientation, normals and axes, told by reading back."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.geometry.shapes import box, field_of, icosphere, join, sphere_distance
from threed_gen.errors import DiskError, UserError
from threed_gen.generation.mesh_file import (
    SUFFIXES,
    check_target,
    fill_holes,
    simplified,
    vertex_normals,
    write_mesh,
)
from threed_gen.generation.surface import surface_of_field
from threed_gen.geometry.connectivity import is_consistent
from threed_gen.geometry.mesh import Mesh, boundary_edge_count, signed_volume
from threed_gen.geometry.mesh_io import load_mesh

BALL = 4 / 3 * np.pi * 0.4**3


def ball() -> Mesh:
    mesh = surface_of_field(field_of(lambda p: sphere_distance(p, 0.4, 0.5), 32, 4 / 32))
    return Mesh(mesh.vertices - 0.5, mesh.faces)


def opened(path: Path) -> trimesh.Trimesh:
    found = trimesh.load(path, process=False)
    if isinstance(found, trimesh.Scene):  # a GLB; joining its parts would forget the normals
        (found,) = found.geometry.values()
    assert isinstance(found, trimesh.Trimesh)
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_ball_comes_back(tmp_path: Path, suffix: str) -> None:
    path, mesh = tmp_path / f"ball{suffix}", ball()
    write_mesh(mesh, path)
    found = opened(path)
    normals = found.vertex_normals.copy()  # those of the file, as long as nothing else is asked
    assert found.volume == pytest.approx(BALL, rel=0.02) and found.is_watertight
    marks = {".glb": b'"NORMAL"', ".obj": b"\nvn ", ".ply": b"property float nx"}
    assert marks[suffix] in path.read_bytes()
    outward = np.einsum("ij,ij->i", normals, found.vertices)
    assert outward.min() > 0.39
    assert load_mesh(path).faces.shape == mesh.faces.shape


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_axes_and_units_stay(tmp_path: Path, suffix: str) -> None:
    """Tall along y, deep along z, and a bump towards +x: no axis is swapped or mirrored."""
    path = tmp_path / f"shape{suffix}"
    body = join(box((-0.1, -0.4, -0.2), (0.1, 0.4, 0.2)), box((0.1, 0.3, 0.1), (0.15, 0.35, 0.15)))
    write_mesh(body, path)
    found = opened(path)
    np.testing.assert_allclose(found.bounds, [[-0.1, -0.4, -0.2], [0.15, 0.4, 0.2]], atol=1e-6)
    bump = found.vertices[found.vertices[:, 0] > 0.12]
    assert bump[:, 1].min() > 0.29 and bump[:, 2].min() > 0.09
    assert found.volume > 0


def test_glb_says_what_gltf_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "ball.glb"
    write_mesh(ball(), path)
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size = struct.unpack("<I", content[12:16])[0]
    tree = json.loads(content[20 : 20 + size])
    (primitive,) = tree["meshes"][0]["primitives"]
    assert {"POSITION", "NORMAL"} <= set(primitive["attributes"])
    assert all(node.get("matrix") is None for node in tree["nodes"] if "mesh" in node)
    (material,) = tree["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0


def test_normals_of_a_sphere_and_of_nothing() -> None:
    sphere = icosphere(1.0, 3)
    np.testing.assert_allclose(vertex_normals(sphere), sphere.vertices, atol=0.02)
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert np.linalg.norm(vertex_normals(flat), axis=1).tolist() == [1, 1, 1]


def test_simplified_ball_is_a_ball() -> None:
    mesh = simplified(icosphere(0.4, 5, (3.0, -2.0, 1.0)), 600)
    assert 400 <= len(mesh.faces) <= 600
    assert boundary_edge_count(mesh) == 0
    assert signed_volume(mesh) == pytest.approx(BALL, rel=0.03)
    np.testing.assert_allclose(np.mean(mesh.bounds, axis=0), [3.0, -2.0, 1.0], atol=0.01)


def test_simplifying_is_the_same_twice_and_leaves_small_meshes_alone() -> None:
    mesh = ball()
    a, b = simplified(mesh, 300), simplified(mesh, 300)
    assert a.vertices.tobytes() == b.vertices.tobytes() and a.faces.tobytes() == b.faces.tobytes()
    assert simplified(mesh, len(mesh.faces)) is mesh
    with pytest.raises(UserError, match="at least 4"):
        simplified(mesh, 3)


def punched(mesh: Mesh, away: float) -> Mesh:
    """Without the faces around +x."""
    return Mesh(mesh.vertices, mesh.faces[mesh.triangles.mean(axis=1)[:, 0] < away])


def test_small_holes_are_closed_outwards_and_large_ones_stay() -> None:
    small, large = punched(icosphere(0.4, 4), 0.3985), punched(icosphere(0.4, 4), 0.2)
    assert boundary_edge_count(small) > 3 and boundary_edge_count(large) > 3
    mesh, holes = fill_holes(small)
    assert holes == 1 and boundary_edge_count(mesh) == 0 and is_consistent(mesh.faces)
    assert signed_volume(mesh) == pytest.approx(BALL, rel=0.01)
    kept, holes = fill_holes(large)
    assert holes == 0 and np.array_equal(kept.faces, large.faces)


@pytest.mark.parametrize("name", ["a.stl", "a", "a.glb.txt", "a.gltf"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="known: .glb .obj .ply"):
        check_target(tmp_path / name)


def test_no_faces_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without faces"):
        write_mesh(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), tmp_path / "a.glb")
    (tmp_path / "d.glb").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        check_target(tmp_path / "d.glb")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("threed_gen.files.os.fsync", full)
    with pytest.raises(DiskError, match=r"ball\.glb: could not write the mesh: No space left"):
        write_mesh(ball(), tmp_path / "ball.glb")
    assert list(tmp_path.iterdir()) == []

"""Mesh files: every format there and back, scenes with transforms, and damaged files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from tests.geometry.shapes import box, icosphere
from threed_gen.errors import DiskError
from threed_gen.geometry.mesh import Mesh, MeshError, boundary_edge_count, signed_volume
from threed_gen.geometry.mesh_io import load_mesh, save_mesh

FORMATS = [".glb", ".obj", ".ply", ".stl", ".off"]


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


@pytest.mark.parametrize("suffix", [*FORMATS, ".STL"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    mesh = icosphere(1.5, 2, (3, -2, 1))
    path = tmp_path / "new folder" / f"ball{suffix}"
    save_mesh(mesh, path)
    back = load_mesh(path)
    assert len(back.vertices) == len(mesh.vertices)
    assert boundary_edge_count(back) == 0
    order = np.lexsort(back.triangles.mean(1).round(4).T)
    expected = mesh.triangles[np.lexsort(mesh.triangles.mean(1).round(4).T)]
    np.testing.assert_allclose(back.triangles[order].mean(1), expected.mean(1), atol=1e-5)
    assert signed_volume(back) == pytest.approx(signed_volume(mesh), rel=1e-5)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def scene() -> trimesh.Scene:
    """Two boxes: one twice as large and moved, one mirrored; both from the same geometry."""
    place = trimesh.transformations.translation_matrix([10, 0, 0]) @ np.diag([2, 2, 2, 1])
    mirror = np.diag([-1.0, 1, 1, 1])
    scene = trimesh.Scene()
    scene.add_geometry(as_trimesh(box()), node_name="large", transform=place)
    scene.add_geometry(as_trimesh(box()), node_name="mirrored", transform=mirror)
    return scene


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_node_transforms(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scene{suffix}"
    if suffix == ".glb":
        path.write_bytes(scene().export(file_type="glb"))
    else:
        for name, content in scene().export(file_type="gltf").items():
            (tmp_path / ("scene.gltf" if name.endswith(".gltf") else name)).write_bytes(content)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.bounds[0], [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(mesh.bounds[1], [12, 2, 2], atol=1e-6)
    # Outward everywhere, also after mirroring: volumes add up.
    assert signed_volume(mesh) == pytest.approx(8 + 1)


def test_nested_transforms_and_several_primitives(tmp_path: Path) -> None:
    """A hand-written glb: one mesh of two primitives with seams, under two nodes."""
    cube = box()
    corners = cube.triangles.astype(np.float32).reshape(-1, 3)  # unwelded, as exporters write
    data = corners.tobytes()
    half = len(corners) // 2
    accessors = [
        {
            "bufferView": 0,
            "byteOffset": start * 12,
            "componentType": 5126,
            "count": half,
            "type": "VEC3",
            "min": [0, 0, 0],
            "max": [1, 1, 1],
        }
        for start in (0, half)
    ]
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1], "translation": [5, 0, 0]},
            {"mesh": 0, "scale": [1, 3, 1]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": i}} for i in (0, 1)]}],
        "accessors": accessors,
        "bufferViews": [{"buffer": 0, "byteLength": len(data)}],
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    body += struct.pack("<II", len(data), 0x004E4942) + data
    path = tmp_path / "two.glb"
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body)
    mesh = load_mesh(path)
    assert len(mesh.vertices) == 8
    assert boundary_edge_count(mesh) == 0
    np.testing.assert_allclose(mesh.bounds, [[5, 0, 0], [6, 3, 1]], atol=1e-6)


def test_obj_with_quads_and_texture_seams(tmp_path: Path) -> None:
    lines = [f"v {x} {y} {z}" for x, y, z in box().vertices]
    lines += [f"vt {i / 24} {i % 5 / 5}" for i in range(24)]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    for i, quad in enumerate(quads):
        lines.append("f " + " ".join(f"{v + 1}/{4 * i + k + 1}" for k, v in enumerate(quad)))
    path = tmp_path / "seams.obj"
    path.write_text("\n".join(lines))
    mesh = load_mesh(path)
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)
    assert signed_volume(mesh) == pytest.approx(1)


def reason(path: Path) -> str:
    with pytest.raises(MeshError, match=r"^[^\n]+$") as caught:
        load_mesh(path)
    assert path.name in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [*FORMATS, ".gltf"])
def test_empty_and_garbage_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"")
    assert reason(path) == "empty_file"
    path.write_bytes(np.random.default_rng(0).bytes(700))
    assert reason(path) in ("unreadable", "no_faces")
    path.write_text("hello, I am a letter\n" * 30)
    assert reason(path) in ("unreadable", "no_faces")


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    """A file cut anywhere is an error, or in formats of plain lines a mesh of what is left."""
    whole = tmp_path / f"whole{suffix}"
    save_mesh(icosphere(1.0, 2), whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        cut.write_bytes(content[: int(len(content) * share)])
        try:
            mesh = load_mesh(cut)
        except MeshError:
            assert reason(cut) in ("unreadable", "no_faces", "no_extent")
        else:
            assert suffix in (".obj", ".off"), "a binary file that was cut was taken for whole"
            assert boundary_edge_count(mesh) > 0


def test_not_finite_and_no_extent(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 nan 0\n3 0 1 2\n")
    assert reason(path) == "non_finite"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 inf 0\n3 0 1 2\n")
    assert reason(path) == "non_finite"
    path.write_text("OFF\n3 1 0\n2 2 2\n2 2 2\n2 2 2\n3 0 1 2\n")
    assert reason(path) == "no_extent"
    path.write_text("OFF\n4 2 0\n0 0 0\n1 0 0\n0 0 0\n1 0 0\n3 0 1 2\n3 0 1 3\n")
    assert reason(path) == "no_faces"


def test_points_only(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    path.write_bytes(
        trimesh.PointCloud(np.random.default_rng(0).random((9, 3))).export(file_type="ply")
    )
    assert reason(path) == "no_faces"


def test_faces_that_name_no_vertex(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    assert reason(path) == "unreadable"


def test_missing_and_unknown(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.glb") == "missing"
    (tmp_path / "a.step").write_text("solid")
    assert reason(tmp_path / "a.step") == "format"
    with pytest.raises(MeshError, match="cannot write"):
        save_mesh(box(), tmp_path / "a.step")


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    path = tmp_path / "a.ply"
    save_mesh(box(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="a.ply"):
        save_mesh(icosphere(1, 2), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_mesh_without_faces_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as caught:
        save_mesh(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), tmp_path / "a.ply")
    assert caught.value.reason == "no_faces"

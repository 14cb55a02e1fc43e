"""glTF in closed form: skins, morph targets, strips and fans, sparse and packed values, scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.gltf_builder import Builder, plain, skinned
from tests.geometry.shapes import box
from threed_gen.geometry.mesh import Mesh, signed_volume
from threed_gen.geometry.mesh_io import load_mesh
from threed_gen.geometry.reading.polygons import strip


def loaded(tmp_path: Path, builder: Builder) -> Mesh:
    path = tmp_path / "a.glb"
    path.write_bytes(builder.glb())
    return load_mesh(path)


def test_rest_pose_follows_the_joints(tmp_path: Path) -> None:
    mesh = loaded(tmp_path, skinned())
    # lower half: scale 0.5; upper: 0.5 · ((0, 4, 0) + position - (0, 1, 0)), from y = 2 to 2.5
    np.testing.assert_allclose(mesh.bounds, [[-0.5, 0, -0.5], [0.5, 2.5, 0.5]])
    assert signed_volume(mesh) == pytest.approx(2.5)


def test_weights_are_shared_and_normalised(tmp_path: Path) -> None:
    """Half the weight at either joint, in bytes that add up to 200: half way between them."""
    scene = skinned()
    attributes = scene.tree["meshes"][0]["primitives"][0]["attributes"]
    half = [[100, 100, 0, 0]] * 8
    attributes["WEIGHTS_0"] = scene.accessor(half, "VEC4", "u1", normalized=True)
    attributes["JOINTS_0"] = scene.accessor([[0, 1, 9, 9]] * 8, "VEC4", "u1")  # 9: of no weight
    mesh = loaded(tmp_path, scene)
    np.testing.assert_allclose(mesh.bounds, [[-0.5, 0.75, -0.5], [0.5, 1.75, 0.5]])


def test_mirroring_joints_and_nodes_keep_faces_outward(tmp_path: Path) -> None:
    scene = skinned()
    scene.tree["nodes"][1]["scale"] = [-0.5, 0.5, 0.5]
    assert signed_volume(loaded(tmp_path, scene)) == pytest.approx(2.5)
    scene = plain(box())
    scene.tree["nodes"][0]["scale"] = [1, -2, 1]
    assert signed_volume(loaded(tmp_path, scene)) == pytest.approx(2)


def test_morph_targets_at_default_weights(tmp_path: Path) -> None:
    scene = Builder()
    primitive = scene.primitive(box())
    moved = np.where(box().vertices[:, :1] > 0, [[1.0, 0, 0]], [[0.0, 0, 0]])
    target = scene.accessor(moved, "VEC3", "f4")
    primitive["targets"] = [{"POSITION": target}, {"POSITION": target}]
    mesh = scene.add("meshes", {"primitives": [primitive], "weights": [0.5, 0]})
    scene.node(mesh=mesh)
    assert loaded(tmp_path, scene).bounds[1][0] == 1.5
    scene.tree["nodes"][0]["weights"] = [0, 2]
    assert loaded(tmp_path, scene).bounds[1][0] == 3


def test_strips_and_fans(tmp_path: Path) -> None:
    """A tetrahedron as one strip, closed; and a pyramid as a fan and its base."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    scene = Builder()
    primitive = scene.primitive(Mesh(corners, np.zeros((0, 3), int)), mode=5)
    primitive["indices"] = scene.accessor([0, 2, 1, 3, 0, 2], "SCALAR", "u2")
    scene.node(mesh=scene.add("meshes", {"primitives": [primitive]}))
    assert signed_volume(loaded(tmp_path, scene)) == pytest.approx(1 / 6)
    assert strip(np.arange(5)).tolist() == [[0, 1, 2], [1, 3, 2], [2, 3, 4]]
    fan = Builder()
    corners = np.array([[0, 0, 3], [1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0], [1, 1, 0.0]])
    cone = fan.primitive(Mesh(corners, np.zeros((0, 3), int)), mode=6)
    del cone["indices"]
    base = fan.primitive(Mesh(corners[1:5], np.array([[0, 2, 1], [0, 3, 2]])))
    fan.node(mesh=fan.add("meshes", {"primitives": [cone, base]}))
    assert signed_volume(loaded(tmp_path, fan)) == pytest.approx(4)


def test_sparse_quantised_and_strided_values(tmp_path: Path) -> None:
    scene = plain(box())
    where = scene.view(np.array([7], "u1").tobytes())
    new = scene.view(np.array([3, 1, 1], "<f4").tobytes())
    scene.tree["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": where, "componentType": 5121},
        "values": {"bufferView": new},
    }
    assert loaded(tmp_path, scene).bounds[1].tolist() == [3, 1, 1]

    scene = plain(box())
    bytes_ = np.full((8, 8), 99, "i1")  # 3 of 8 bytes are the position
    bytes_[:, 1:4] = np.where(box().vertices > 0, 127, -128)
    view = scene.view(bytes_.tobytes(), byteStride=8)
    scene.tree["accessors"][0] |= {
        "bufferView": view, "byteOffset": 1, "componentType": 5120, "normalized": True
    }  # fmt: skip
    assert np.array(loaded(tmp_path, scene).bounds).tolist() == [[-1] * 3, [1] * 3]


def test_only_the_scene_is_read(tmp_path: Path) -> None:
    scene = plain()
    scene.add("nodes", {"mesh": scene.mesh(box((5, 5, 5), (9, 9, 9)))})  # in no scene
    assert loaded(tmp_path, scene).bounds[1].max() <= 1
    scene.tree["scenes"].append({"nodes": [1]})
    scene.tree["scene"] = 1
    assert loaded(tmp_path, scene).bounds[1].max() == 9


def test_instances_share_one_mesh(tmp_path: Path) -> None:
    scene = plain(box())
    scene.node(mesh=0, translation=[4, 0, 0])
    assert signed_volume(loaded(tmp_path, scene)) == pytest.approx(2)

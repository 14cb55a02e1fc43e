"""Hostile and odd glTF files, each with what has to become of it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from tests.data.gltf_builder import BALL, CARD, FLOAT, U16, Builder, plain, skinned, surrounded
from tests.data.hostile_case import Case
from tests.geometry.shapes import icosphere
from threed_gen.geometry.mesh import Mesh


def gltf_cases(outside: str) -> Iterator[Case]:
    """`outside` is the path of a folder that must not be touched; decoy.bin in it fits."""
    yield from _files(outside)
    yield from _geometry()
    yield from _claims()
    yield from _nodes()
    yield from _looks()


def _files(outside: str) -> Iterator[Case]:
    ball = plain()
    blob = bytes(ball.blob)

    def referring(name: str, uri: str, expect: str, **beside: bytes) -> Case:
        more = {key.replace("__", "/").replace("_", "."): v for key, v in beside.items()}
        return Case(f"{name}.gltf", ball.text(uri), expect, beside=more)

    yield referring("beside", "a.bin", "sample", a_bin=blob)
    yield referring("below", "data/a.bin", "sample", data__a_bin=blob)
    yield Case("encoded.gltf", ball.text("my%20a.bin"), "sample", beside={"my a.bin": blob})
    yield Case("not_encoded.gltf", ball.text("100%.bin"), "sample", beside={"100%.bin": blob})
    yield referring("bin_missing", "gone.bin", "missing_file")
    yield referring("bin_cut", "a.bin", "unreadable", a_bin=blob[:-9])
    for name, uri in {
        "absolute": f"{outside}/decoy.bin",
        "up": "../decoy.bin",
        "up_further": "x/../../../outside/decoy.bin",
        "up_encoded": "%2e%2e/decoy.bin",
        "up_encoded_twice": "%252e%252e%252fdecoy.bin",
        "file_scheme": f"file://{outside}/decoy.bin",
        "http_scheme": "http://127.0.0.1:9/decoy.bin",
        "backslash": "..\\decoy.bin",
        "drive": "C:/decoy.bin",
        "zero_byte": "a.bin\0/../../decoy.bin",
    }.items():
        yield referring(f"outside_{name}", uri, "outside_reference")
    yield Case(
        "outside_link.gltf", ball.text("a.bin"), "outside_reference",
        links={"a.bin": f"{outside}/decoy.bin"},
    )  # fmt: skip
    yield Case(
        "outside_folder_link.gltf", ball.text("sub/decoy.bin"), "outside_reference",
        links={"sub": outside},
    )  # fmt: skip
    yield Case(
        "circle_of_links.gltf", ball.text("a.bin"), "missing_file",
        links={"a.bin": "b.bin", "b.bin": "a.bin"},
    )  # fmt: skip
    data = "data:application/octet-stream;base64," + base64.b64encode(blob).decode()
    yield Case("data_uri.gltf", ball.text(data), "sample")
    yield Case("data_uri_damaged.gltf", ball.text(data[:-40] + "!" * 40), "unreadable")
    whole = ball.glb()
    yield Case("cut.glb", whole[: len(whole) // 2], "unreadable")
    yield Case("cut_header.glb", whole[:15], "unreadable")
    yield Case(
        "chunk_lies.glb", whole[:12] + b"\xff\xff\xff\x7f" + whole[16:], "unreadable too_large"
    )
    for name, more in {"length_lies": 4, "chunk_beyond": -12}.items():
        length = struct.pack("<I", len(whole) + more)
        yield Case(f"{name}.glb", whole[:8] + length + whole[12:], "unreadable")
    ball.tree["buffers"] = [{"uri": "a.bin", "byteLength": len(blob) + 50}]
    yield Case("bin_short.gltf", ball.text(), "unreadable", beside={"a.bin": blob})
    del ball.tree["buffers"]
    yield Case("version_1.glb", whole[:4] + b"\1\0\0\0" + whole[8:], "unsupported_version")
    yield Case("garbage.glb", np.random.default_rng(1).bytes(5000), "unreadable")
    yield Case("deep_json.gltf", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "unreadable")
    yield Case("a_list.gltf", b"[1, 2, 3]", "unreadable")
    yield Case(
        "other_kinds.gltf", b'{"asset":{"version":"2.0"},"nodes":5,"meshes":"x"}', "unreadable"
    )
    ball.tree["extras"] = {"text": "x" * 5_000_000}
    yield Case("long_text.gltf", ball.text("a.bin"), "sample", beside={"a.bin": blob})


def _geometry() -> Iterator[Case]:
    yield Case("no_mesh.glb", Builder().glb(), "no_faces")
    yield Case("points.glb", plain(mode=0).glb(), "no_faces")
    both = Builder()
    lines = both.primitive(BALL, mode=1)
    both.node(mesh=both.add("meshes", {"primitives": [both.primitive(BALL), lines]}))
    yield Case("points_beside.glb", both.glb(), "sample", flags=("points_dropped",))
    wild = np.array(BALL.vertices)
    for name, value in {"nan": np.nan, "infinite": np.inf}.items():
        wild[3] = value
        yield Case(f"{name}_vertex.glb", plain(Mesh(wild, BALL.faces)).glb(), "non_finite")
    quantised = Builder()
    points = np.round(BALL.vertices * 32767)
    position = quantised.accessor(points, "VEC3", "i2", normalized=True)
    indices = quantised.accessor(BALL.faces.reshape(-1), "SCALAR", "u2")
    primitive = {"attributes": {"POSITION": position}, "indices": indices}
    # 6 bytes a vertex is a stride that some writers leave unpadded
    quantised.node(mesh=quantised.add("meshes", {"primitives": [primitive]}))
    quantised.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    yield Case("quantised.glb", quantised.glb(), "sample")
    sparse = plain()
    where = sparse.view(np.array([0, 5], "<u2").tobytes())
    new = sparse.view((2 * BALL.vertices[[0, 5]]).astype("<f4").tobytes())
    sparse.tree["accessors"][0]["sparse"] = {
        "count": 2,
        "indices": {"bufferView": where, "componentType": U16},
        "values": {"bufferView": new},
    }
    yield Case("sparse.glb", sparse.glb(), "sample")
    sparse.blob[sparse.tree["bufferViews"][where]["byteOffset"]] = 250
    yield Case("sparse_beyond.glb", sparse.glb(), "unreadable")
    beyond = plain(Mesh(BALL.vertices[:-1], BALL.faces % (len(BALL.vertices) - 1)))
    beyond.blob[-4:] = struct.pack("<I", 4_000_000)
    yield Case("index_beyond.glb", beyond.glb(), "unreadable")
    for name in ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "ACME_geometry"):
        needs = plain()
        needs.tree["extensionsRequired"] = [name]
        yield Case(f"{name.lower()}.glb", needs.glb(), "unsupported_extension")
    draco = plain(extensions={"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}})
    del draco.tree["accessors"][0]["bufferView"]
    yield Case("draco_unsaid.glb", draco.glb(), "unsupported_extension")
    fine = plain()
    fine.tree["extensionsRequired"] = ["KHR_texture_basisu", "KHR_materials_unlit"]
    yield Case("basisu.glb", fine.glb(), "sample")


def _claims() -> Iterator[Case]:
    for accessor, name in ((0, "vertices"), (1, "indices")):
        huge = plain()
        huge.tree["accessors"][accessor]["count"] = 2**40
        yield Case(f"claims_{name}.glb", huge.glb(), "too_many_faces")
    empty = plain()
    del empty.tree["accessors"][0]["bufferView"]
    empty.tree["accessors"][0]["count"] = 2**40
    yield Case("claims_zeros.glb", empty.glb(), "too_many_faces")
    short = plain()
    short.tree["accessors"][0]["count"] = 5000
    yield Case("claims_more.glb", short.glb(), "unreadable")
    neighbour = plain()  # there are bytes behind the view, but they are not its own
    neighbour.tree["accessors"][0]["count"] += 10
    yield Case("claims_neighbour.glb", neighbour.glb(), "unreadable")
    view = plain()
    view.tree["bufferViews"][0]["byteLength"] = 2**50
    yield Case("claims_view.glb", view.glb(), "unreadable")
    negative = plain()
    negative.tree["accessors"][0]["byteOffset"] = -8
    yield Case("claims_negative.glb", negative.glb(), "unreadable")
    buffer = plain()
    buffer.tree["buffers"] = [{"byteLength": 2**50}]
    yield Case("claims_buffer.glb", buffer.glb(), "too_large")
    many = Builder()
    mesh = many.mesh(icosphere(1.0, 3))  # 1,280 faces at 16,000 places
    for _ in range(16_000):
        many.node(mesh=mesh)
    yield Case("many_instances.glb", many.glb(), "too_many_faces")


def exploder() -> Case:
    """A small legal file that takes gigabytes: an accessor without data is all zeros."""
    scene = Builder()
    empty = {"componentType": FLOAT, "count": 59_000_000, "type": "VEC3"}
    zeros = scene.primitive(BALL)
    zeros["attributes"] = {"POSITION": scene.add("accessors", empty)}
    scene.node(mesh=scene.add("meshes", {"primitives": [zeros, scene.primitive(BALL)]}))
    return Case("exploder.glb", scene.glb(), "out_of_memory")


def _nodes() -> Iterator[Case]:
    circle = plain()
    circle.tree["nodes"] = [{"mesh": 0, "children": [1]}, {"children": [2]}, {"children": [1]}]
    yield Case("circle_of_nodes.glb", circle.glb(), "node_graph")
    lost = plain()  # a circle that no root leads to
    lost.tree["nodes"] += [{"children": [2]}, {"children": [1]}]
    yield Case("circle_apart.glb", lost.glb(), "node_graph")
    itself = plain()
    itself.tree["nodes"] = [{"mesh": 0, "children": [0]}]
    yield Case("own_child.glb", itself.glb(), "node_graph")
    doubling = plain()
    doubling.tree["nodes"] = [{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]
    yield Case("doubling.glb", doubling.glb(), "node_graph")
    deep = plain()
    deep.tree["nodes"] = [{"children": [i + 1]} for i in range(20_000)] + [{"mesh": 0}]
    yield Case("deep_nodes.glb", deep.glb(), "sample")
    for name, node, expect in (
        ("scale_0", {"scale": [0, 0, 0]}, "no_extent"),
        ("flattened", {"scale": [1, 0, 1]}, "flat"),
        ("matrix_infinite", {"matrix": [1e999] * 16}, "unreadable non_finite"),
        ("too_far", {"scale": [1e308, 1e308, 1e308]}, "non_finite"),
        ("no_rotation", {"rotation": [0, 0, 0, 0]}, "unreadable"),
        ("mirrored", {"scale": [-1, 1, 1]}, "sample"),
    ):
        scene = plain()
        scene.tree["nodes"][0] |= node
        yield Case(f"{name}.glb", scene.glb().replace(b"Infinity", b"   1e999"), expect)
    hidden = plain()
    hidden.node(mesh=0, scale=[0, 0, 0], translation=[0.5, 0, 0])
    yield Case("one_hidden.glb", hidden.glb(), "sample")


def _looks() -> Iterator[Case]:
    yield Case("skinned.glb", skinned().glb(), "sample", flags=("skinned",))
    stray = skinned()
    stray.tree["skins"][0]["joints"] = [1]
    yield Case("skin_beyond.glb", stray.glb(), "unreadable")
    cards = plain()
    cards.add("materials", {"alphaMode": "MASK"})
    leaf = cards.mesh(CARD, material=0)
    for turn in range(4):
        quaternion = [0, np.sin(turn), 0, np.cos(turn)]
        cards.node(mesh=leaf, rotation=quaternion, translation=[0, 1, 0])
    yield Case("alpha_cards.glb", cards.glb(), "sample", flags=("alpha",))
    for name, uri in {"gone": "gone.png", "outside": "../decoy.png"}.items():
        textured = plain()
        textured.add("images", {"uri": uri})
        yield Case(f"texture_{name}.glb", textured.glb(), "sample", flags=("missing_texture",))
    bomb = plain()
    png = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 6, 0, 0, 0)
    for kind, data in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(bytes(10_000_000))),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(data)) + kind + data
        png += struct.pack(">I", zlib.crc32(kind + data))
    bomb.add("images", {"bufferView": bomb.view(png), "mimeType": "image/png"})
    bomb.add("textures", {"source": 0})
    bomb.add("materials", {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}})
    bomb.tree["meshes"][0]["primitives"][0]["material"] = 0
    yield Case("image_bomb.glb", bomb.glb(), "sample")
    flags = ("ground_plane_dropped", "skybox_dropped")
    yield Case("ground_and_sky.glb", surrounded().glb(), "sample", flags=flags)

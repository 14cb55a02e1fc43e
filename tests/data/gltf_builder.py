"""A small writer of glTF for tests, in which every detail can be wrong; and a few scenes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from tests.geometry.shapes import box, icosphere
from threed_gen.geometry.mesh import Mesh

FLOAT, U8, I16, U16, U32 = 5126, 5121, 5122, 5123, 5125
CODES = {"f4": FLOAT, "u1": U8, "i2": I16, "u2": U16, "u4": U32}
Tree = dict[str, Any]


class Builder:
    """A glTF in the making."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.tree: Tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        for key in ("nodes", "meshes", "accessors", "bufferViews"):
            self.tree[key] = []

    def add(self, key: str, value: Any) -> int:
        self.tree.setdefault(key, []).append(value)
        return len(self.tree[key]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        self.blob += b"\0" * (-len(self.blob) % 4)
        view = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data), **more}
        self.blob += data
        return self.add("bufferViews", view)

    def accessor(self, values: Any, kind: str, dtype: str, **more: Any) -> int:
        array = np.asarray(values).astype("<" + dtype)
        view = self.view(array.tobytes())
        return self.add(
            "accessors",
            {"bufferView": view, "componentType": CODES[dtype], "count": len(array), "type": kind}
            | more,
        )

    def primitive(self, mesh: Mesh, **more: Any) -> Tree:
        position = self.accessor(mesh.vertices, "VEC3", "f4")
        indices = self.accessor(mesh.faces.reshape(-1), "SCALAR", "u4")
        return {"attributes": {"POSITION": position}, "indices": indices, **more}

    def node(self, **node: Any) -> int:
        """A node at the top of the scene."""
        number = self.add("nodes", node)
        self.tree["scenes"][0]["nodes"].append(number)
        return number

    def mesh(self, mesh: Mesh | None = None, **more: Any) -> int:
        return self.add("meshes", {"primitives": [self.primitive(mesh or BALL, **more)]})

    def text(self, uri: str | None = None) -> bytes:
        buffer: Tree = {"byteLength": len(self.blob)}
        if uri is not None:
            buffer["uri"] = uri
        return json.dumps({"buffers": [buffer], **self.tree}).encode()

    def glb(self) -> bytes:
        return glb(self.text(), bytes(self.blob))


def glb(text: bytes, blob: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    body += struct.pack("<II", len(blob), 0x004E4942) + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


BALL = icosphere(1.0, 1)
CARD = Mesh(
    np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]), np.array([[0, 1, 2], [0, 2, 3]])
)


def plain(mesh: Mesh | None = None, **more: Any) -> Builder:
    """A scene of one mesh."""
    builder = Builder()
    builder.node(mesh=builder.mesh(mesh, **more))
    return builder


def skinned() -> Builder:
    """A box whose upper half follows a joint that was moved up by 3; its own node is a trap."""
    scene = Builder()
    tall = box((-1, 0, -1), (1, 2, 1))
    upper = tall.vertices[:, 1] > 1
    joints = np.stack([upper, *[np.zeros_like(upper)] * 3], axis=1)
    skin = scene.add("skins", {"joints": [1, 2]})
    mesh = scene.mesh(tall)
    attributes = scene.tree["meshes"][mesh]["primitives"][0]["attributes"]
    attributes["JOINTS_0"] = scene.accessor(joints, "VEC4", "u1")
    attributes["WEIGHTS_0"] = scene.accessor([[255, 0, 0, 0]] * 8, "VEC4", "u1", normalized=True)
    scene.node(mesh=mesh, skin=skin, translation=[100, 100, 100])  # does not count
    scene.node(children=[2], scale=[0.5, 0.5, 0.5])
    scene.add("nodes", {"translation": [0, 4, 0]})
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, 3, 1] = -1.0  # the upper joint was at height 1 when the mesh was bound (column-major)
    numbers = scene.accessor(bind.reshape(2, 16), "MAT4", "f4")
    scene.tree["skins"][0]["inverseBindMatrices"] = numbers
    return scene


def surrounded() -> Builder:
    """A ball on a ground plane, under a sky."""
    scene = plain()
    ground = Mesh(30 * (CARD.vertices[:, [0, 2, 1]] - [1, 0, 1]) - [0, 1, 0], CARD.faces[:, ::-1])
    scene.node(mesh=scene.mesh(ground))
    sky = box((-40, -2, -40), (40, 78, 40))
    scene.node(mesh=scene.mesh(Mesh(sky.vertices, sky.faces[:, ::-1])))
    return scene

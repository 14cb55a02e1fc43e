"""The colours of a glTF: base colour of the metallic-roughness and specular-glossiness materials.

Vertices come from the reader of the geometry (reading/gltf.py), primitive by primitive, so they are
where `load_mesh` has them: nodes, skins and morph targets included. Images may lie in the buffers,
in data: URIs or beside the file; only what lies inside the asset's folder is opened.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.beside import Beside
from threed_gen.geometry.reading.gltf import Instance, instances_at, read_instance
from threed_gen.geometry.reading.gltf_accessors import read_real
from threed_gen.geometry.reading.gltf_file import GltfFile, data_uri
from threed_gen.geometry.reading.gltf_nodes import placed_nodes
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.reasons import ReadLimits, check_faces, reject
from threed_gen.geometry.render.paint import AlphaMode, Material, PaintedMesh
from threed_gen.geometry.render.textures import Textures

_GLOSSINESS = "KHR_materials_pbrSpecularGlossiness"
_TRANSFORM = "KHR_texture_transform"
_WEBP = "EXT_texture_webp"
_MODES: dict[str, AlphaMode] = {"MASK": "MASK", "BLEND": "BLEND"}


def paint_gltf(content: bytes, beside: Beside, limits: ReadLimits) -> PaintedMesh:
    """Read a .gltf or .glb with its colours, in the scene's frame."""
    file = GltfFile(content, beside, limits)
    visible, world = placed_nodes(file.tree)
    found = [instance for node in visible for instance in instances_at(file, node, set())]
    check_faces(sum(instance.faces for instance in found), limits)
    palette = _Palette(file)
    vertices: list[NDArray[np.float64]] = [np.zeros((0, 3))]
    faces: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    uvs: list[NDArray[np.float32]] = [np.zeros((0, 3, 2), np.float32)]
    colors: list[NDArray[np.float32]] = [np.zeros((0, 3, 4), np.float32)]
    numbers: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    count = 0
    for instance in found:
        points, corners = read_instance(file, instance, world, set())
        number, uv, color = palette.coat(instance, len(points))
        vertices.append(points)
        faces.append(corners + count)
        uvs.append(uv[corners])
        colors.append(color[corners])
        numbers.append(np.full(len(corners), number, np.int32))
        count += len(points)
    return PaintedMesh(
        np.concatenate(vertices),
        np.concatenate(faces),
        np.concatenate(uvs),
        np.concatenate(colors),
        np.concatenate(numbers),
        tuple(palette.materials),
        tuple(palette.textures.images),
        tuple(sorted(palette.flags | palette.textures.flags)),
    )


class _Palette:
    """The materials of a file, each read when a primitive first has it."""

    def __init__(self, file: GltfFile) -> None:
        self.file = file
        self.textures = Textures()
        self.flags: set[str] = set()
        self.materials: list[Material] = [Material()]  # of primitives without one
        self._known: dict[int, tuple[int, Tree]] = {}  # number here, texture info

    def coat(
        self, instance: Instance, points: int
    ) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
        """Material, uv [V, 2] and vertex colours [V, 4] of a primitive; neutral where damaged."""
        primitive = instance.primitive
        white = np.ones((points, 4), np.float32)
        try:
            number, info = self._material(primitive)
            color = self._vertex_colors(primitive, points, white)
            if number == 0 and "COLOR_0" in json_tree.child(primitive, "attributes"):
                self.materials.append(Material((1.0, 1.0, 1.0, 1.0)))  # colours as they are
                number = len(self.materials) - 1
            return number, self._uv(primitive, info, points), color
        except MeshError:
            self.flags.add("material_unreadable")
            return 0, np.zeros((points, 2), np.float32), white

    def _material(self, primitive: Tree) -> tuple[int, Tree]:
        if "material" not in primitive:
            return 0, {}
        number = json_tree.whole(primitive, "material")
        if number not in self._known:
            material, info = self._read(json_tree.item(self.file.tree, "materials", number))
            self.materials.append(material)
            self._known[number] = len(self.materials) - 1, info
        return self._known[number]

    def _read(self, tree: Tree) -> tuple[Material, Tree]:
        glossy = json_tree.child(json_tree.child(tree, "extensions"), _GLOSSINESS)
        rough = json_tree.child(tree, "pbrMetallicRoughness")
        source, factor, map_of = rough, "baseColorFactor", "baseColorTexture"
        if glossy:
            source, factor, map_of = glossy, "diffuseFactor", "diffuseTexture"
        color = json_tree.real(source, factor, 4, [1.0] * 4) or [1.0] * 4
        info = json_tree.child(source, map_of)
        texture = self._texture(json_tree.whole(info, "index")) if info else -1
        if info and texture < 0:
            return Material(), {}  # its factor was meant for the image: neutral
        mode = _MODES.get(str(tree.get("alphaMode")), "OPAQUE")
        cutoff = json_tree.real({"c": [tree.get("alphaCutoff", 0.5)]}, "c", 1, None) or [0.5]
        return (
            Material((color[0], color[1], color[2], color[3]), texture, mode, cutoff[0]),
            info,
        )

    def _texture(self, number: int) -> int:
        texture = json_tree.item(self.file.tree, "textures", number)
        webp = json_tree.child(json_tree.child(texture, "extensions"), _WEBP)
        if "source" not in webp and "source" not in texture:  # Basis Universal, for example
            self.textures.flags.add("texture_unreadable")
            return -1
        source = json_tree.whole(webp if "source" in webp else texture, "source")
        return self.textures.number(source, lambda: self._image(source))

    def _image(self, number: int) -> bytes:
        image = json_tree.item(self.file.tree, "images", number)
        uri = image.get("uri")
        if isinstance(uri, str):
            return data_uri(uri) if uri[:5].lower() == "data:" else self.file.beside.read(uri)
        view = json_tree.item(self.file.tree, "bufferViews", json_tree.whole(image, "bufferView"))
        start, length = (json_tree.whole(view, key, 0) for key in ("byteOffset", "byteLength"))
        content = self.file.buffer(json_tree.whole(view, "buffer"))
        if start + length > len(content):
            raise reject("unreadable", "has an image that reaches beyond its buffer")
        return content[start : start + length]

    def _vertex_colors(
        self, primitive: Tree, points: int, white: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        attributes = json_tree.child(primitive, "attributes")
        if "COLOR_0" not in attributes:
            return white
        number = json_tree.whole(attributes, "COLOR_0")
        kind = json_tree.item(self.file.tree, "accessors", number).get("type")
        values = read_real(self.file, number, "VEC3" if kind == "VEC3" else "VEC4")
        if len(values) != points or not np.isfinite(values).all():
            raise reject("unreadable", "has colours for other vertices")
        found = white.copy()
        found[:, : values.shape[1]] = np.clip(values, 0.0, 1.0)
        return found

    def _uv(self, primitive: Tree, info: Tree, points: int) -> NDArray[np.float32]:
        attributes = json_tree.child(primitive, "attributes")
        change = json_tree.child(json_tree.child(info, "extensions"), _TRANSFORM)
        which = json_tree.whole(change if "texCoord" in change else info, "texCoord", 0)
        name = f"TEXCOORD_{which}"
        if not info or name not in attributes:
            return np.zeros((points, 2), np.float32)
        uv = read_real(self.file, json_tree.whole(attributes, name), "VEC2")
        if len(uv) != points or not np.isfinite(uv).all():
            raise reject("unreadable", "has texture coordinates for other vertices")
        return _transformed(uv, change).astype(np.float32)


def _transformed(uv: NDArray[np.float64], change: Tree) -> NDArray[np.float64]:
    """KHR_texture_transform: scaled, then turned counter-clockwise (v goes down), then moved."""
    if not change:
        return uv
    scale = json_tree.real(change, "scale", 2, [1.0, 1.0]) or [1.0, 1.0]
    offset = json_tree.real(change, "offset", 2, [0.0, 0.0]) or [0.0, 0.0]
    (angle,) = json_tree.real({"r": [change.get("rotation", 0.0)]}, "r", 1, None) or [0.0]
    c, s = math.cos(angle), math.sin(angle)
    x, y = (uv * scale).T
    return np.stack([c * x + s * y, c * y - s * x], axis=1) + offset

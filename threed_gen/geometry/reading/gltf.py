"""glTF 2.0, .gltf and .glb: the triangles of every mesh in the scene, where its nodes put them.

Skinned meshes are taken in the rest pose: as the specification says, the transform of their own
node does not count, and each vertex follows its joints. Morph targets have their default weights.
Images are never opened; materials matter only as flags.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.beside import Beside
from threed_gen.geometry.reading.gltf_accessors import count_of, read_real, read_whole
from threed_gen.geometry.reading.gltf_file import GltfFile, check_compression
from threed_gen.geometry.reading.gltf_nodes import placed_nodes
from threed_gen.geometry.reading.gltf_skin import is_mirrored, posed
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.polygons import fan, strip
from threed_gen.geometry.reading.reasons import Raw, ReadLimits, check_faces, reject

_TRIANGLES, _STRIP, _FAN = 4, 5, 6


@dataclass(frozen=True)
class Instance:
    """One primitive of a mesh, at one node."""

    primitive: Tree
    weights: list[float]  # of the morph targets
    node: int
    skin: Tree | None
    faces: int  # upper bound


def read_gltf(content: bytes, beside: Beside, limits: ReadLimits) -> Raw:
    """Read a .gltf or .glb; which of them it is says the content."""
    file = GltfFile(content, beside, limits)
    visible, world = placed_nodes(file.tree)
    flags: set[str] = set()
    instances = [found for node in visible for found in instances_at(file, node, flags)]
    check_faces(sum(instance.faces for instance in instances), limits)
    vertices: list[NDArray[np.float64]] = [np.zeros((0, 3))]
    faces: list[NDArray[np.int64]] = [np.zeros((0, 3), dtype=np.int64)]
    count = 0
    for instance in instances:
        points, corners = read_instance(file, instance, world, flags)
        vertices.append(points)
        faces.append(corners + count)
        count += len(points)
        # Instances multiply vertices as well, also those that no face uses.
        if count > 3 * limits.max_faces:
            raise reject("too_many_faces", f"holds more than {3 * limits.max_faces:,} vertices")
    if _lacks_image(file):
        flags.add("missing_texture")
    return Raw(np.concatenate(vertices), np.concatenate(faces), frozenset(flags), up=1)


def instances_at(file: GltfFile, number: int, flags: set[str]) -> list[Instance]:
    """The primitives that a node shows."""
    node = json_tree.item(file.tree, "nodes", number)
    if "mesh" not in node:
        return []
    mesh = json_tree.item(file.tree, "meshes", json_tree.whole(node, "mesh"))
    skin = None
    if "skin" in node:
        skin = json_tree.item(file.tree, "skins", json_tree.whole(node, "skin"))
    found = []
    for primitive in json_tree.items(mesh, "primitives"):
        mode = json_tree.whole(primitive, "mode", _TRIANGLES)
        position = json_tree.child(primitive, "attributes").get("POSITION")
        if mode not in (_TRIANGLES, _STRIP, _FAN) or position is None:
            flags.add("points_dropped")
            continue
        _check_draco(file, primitive)
        attributes = json_tree.child(primitive, "attributes")
        source = primitive if "indices" in primitive else attributes
        corners = count_of(
            file, json_tree.whole(source, "indices" if source is primitive else "POSITION")
        )
        faces = corners // 3 if mode == _TRIANGLES else max(corners - 2, 0)
        weights = _weights(node, mesh, primitive)
        found.append(Instance(primitive, weights, number, skin, faces))
    return found


def _weights(node: Tree, mesh: Tree, primitive: Tree) -> list[float]:
    count = len(json_tree.items(primitive, "targets"))
    zero = [0.0] * count
    of_mesh = json_tree.real(mesh, "weights", count, zero) if count else zero
    return (json_tree.real(node, "weights", count, of_mesh) if count else zero) or zero


def _check_draco(file: GltfFile, primitive: Tree) -> None:
    """Draco may stand beside plain data; alone it cannot be read."""
    position = json_tree.whole(json_tree.child(primitive, "attributes"), "POSITION")
    accessor = json_tree.item(file.tree, "accessors", position)
    if "bufferView" not in accessor and "sparse" not in accessor:
        check_compression(primitive, "")


def read_instance(
    file: GltfFile, instance: Instance, world: list[NDArray[np.float64]], flags: set[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices in the world, and faces, of one primitive."""
    primitive = instance.primitive
    attributes = json_tree.child(primitive, "attributes")
    points = _morphed(file, primitive, instance.weights)
    if "indices" in primitive:
        corners = read_whole(file, json_tree.whole(primitive, "indices"), "SCALAR")[:, 0]
    else:
        corners = np.arange(len(points))
    if len(corners) and corners.max() >= len(points):
        raise reject("unreadable", "has faces that name vertices that do not exist")
    mode = json_tree.whole(primitive, "mode", _TRIANGLES)
    if mode == _STRIP:
        faces = strip(corners)
    elif mode == _FAN:
        faces = fan(corners)
    else:
        faces = corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(faces) and _is_see_through(file, primitive):
        flags.add("alpha")
    if instance.skin is not None and "JOINTS_0" in attributes:
        flags.add("skinned")
        points, mirrored = posed(file, instance.skin, attributes, points, world)
    else:
        points, mirrored = _placed(points, world[instance.node])
    return points, faces[:, ::-1] if mirrored else faces


def _placed(
    points: NDArray[np.float64], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    if not np.isfinite(matrix).all():
        raise reject("non_finite", "has a node whose place is not finite")
    if np.array_equal(matrix, np.eye(4)):
        return points, False
    return points @ matrix[:3, :3].T + matrix[:3, 3], is_mirrored(matrix[:3, :3])


def _morphed(file: GltfFile, primitive: Tree, weights: list[float]) -> NDArray[np.float64]:
    """Positions of a primitive, with its morph targets at their weights."""
    attributes = json_tree.child(primitive, "attributes")
    points = read_real(file, json_tree.whole(attributes, "POSITION"), "VEC3")
    for target, weight in zip(json_tree.items(primitive, "targets"), weights, strict=True):
        if weight != 0 and "POSITION" in target:
            moved = read_real(file, json_tree.whole(target, "POSITION"), "VEC3")
            if len(moved) != len(points):
                raise reject("unreadable", "has a morph target for other vertices")
            points = points + weight * moved
    return points


def _is_see_through(file: GltfFile, primitive: Tree) -> bool:
    if "material" not in primitive:
        return False
    material = json_tree.item(file.tree, "materials", json_tree.whole(primitive, "material"))
    return material.get("alphaMode") in ("MASK", "BLEND")


def _lacks_image(file: GltfFile) -> bool:
    """True when an image that the file names is not beside it (looked for, never opened)."""
    uris = [image.get("uri") for image in json_tree.items(file.tree, "images")]
    names = {uri for uri in uris if isinstance(uri, str) and uri[:5].lower() != "data:"}
    return any(not file.beside.has(name) for name in sorted(names))

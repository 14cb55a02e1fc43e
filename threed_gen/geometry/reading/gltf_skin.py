"""Skinned meshes of a glTF in their rest pose.

A vertex is at sum_j w_j · world(joint_j) · inverseBind_j · position, with the joints where the
file's nodes put them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.gltf_accessors import read_real, read_whole
from threed_gen.geometry.reading.gltf_file import GltfFile
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.reasons import reject

_MOST_SETS = 8  # of four joints each


def posed(
    file: GltfFile,
    skin: Tree,
    attributes: Tree,
    points: NDArray[np.float64],
    world: list[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], bool]:
    """Vertices [V, 3] in the world, and whether the pose mirrors them."""
    bones = _bones(file, skin, world)
    total = np.zeros(len(points))
    result = np.zeros((len(points), 3))
    turned = 0.0
    signs = np.sign(np.linalg.det(bones[:, :3, :3]))
    for joints, weights in _influences(file, attributes, len(points)):
        used = weights != 0
        if (joints[used] >= len(bones)).any():
            raise reject("unreadable", "has a skin with weights for joints that do not exist")
        joints = np.where(used, joints, 0)
        for k in range(4):  # one joint at a time: [V, 4, 4, 4] at once would be large
            bone, weight = bones[joints[:, k]], weights[:, k]
            moved = np.einsum("vij,vj->vi", bone[:, :3, :3], points) + bone[:, :3, 3]
            result += weight[:, None] * moved
            total += weight
            turned += float((signs[joints[:, k]] * weight).sum())
    # Vertices without weights follow the first joint, as viewers have it.
    loose = ~(np.abs(total) > 1e-12)
    if loose.any():
        result[loose] = points[loose] @ bones[0, :3, :3].T + bones[0, :3, 3]
        total[loose] = 1.0
    return result / total[:, None], turned < 0


def is_mirrored(linear: NDArray[np.float64]) -> bool:
    """True when a linear map turns the winding of faces round."""
    return bool(np.linalg.det(linear) < 0)


def _bones(file: GltfFile, skin: Tree, world: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The matrix of every joint that takes positions of the mesh into the world, [J, 4, 4]."""
    joints = json_tree.wholes(skin, "joints")
    if not joints or max(joints) >= len(world):
        raise reject("unreadable", "has a skin without joints that exist")
    bones = np.stack([world[joint] for joint in joints])
    if "inverseBindMatrices" in skin:
        number = json_tree.whole(skin, "inverseBindMatrices")
        inverse = read_real(file, number, "MAT4").reshape(-1, 4, 4).transpose(0, 2, 1)
        if len(inverse) < len(joints):
            raise reject("unreadable", "has a skin with fewer matrices than joints")
        bones = bones @ inverse[: len(joints)]
    if not np.isfinite(bones).all():
        raise reject("non_finite", "has a skin whose joints are not finite")
    return bones


def _influences(
    file: GltfFile, attributes: Tree, count: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Joints [V, 4] and weights [V, 4] of each set."""
    sets = []
    for number in range(_MOST_SETS):
        if f"JOINTS_{number}" not in attributes:
            break
        joints = read_whole(file, json_tree.whole(attributes, f"JOINTS_{number}"), "VEC4")
        weights = read_real(file, json_tree.whole(attributes, f"WEIGHTS_{number}"), "VEC4")
        if len(joints) != count or len(weights) != count:
            raise reject("unreadable", "has joints or weights for other vertices")
        if not np.isfinite(weights).all():
            raise reject("non_finite", "has joint weights that are not finite")
        sets.append((joints, weights))
    return sets

"""Nodes of a glTF: which are in the scene, and where each of them is.

The nodes must form trees, as the specification says. A node that is its own ancestor has no place,
and one with two parents has two (and thirty of them in a row a thousand million).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.reasons import reject

Matrix = NDArray[np.float64]  # [4, 4]


def placed_nodes(tree: Tree) -> tuple[list[int], list[Matrix]]:
    """Numbers of the nodes in the scene, parents first, and the world matrix of every node."""
    nodes = json_tree.items(tree, "nodes")
    children = [json_tree.wholes(node, "children") for node in nodes]
    parents = _parents(children)
    roots = [number for number, parent in enumerate(parents) if parent < 0]
    world: list[Matrix] = [np.eye(4)] * len(nodes)
    order = _walk(roots, children)
    if len(order) < len(nodes):
        lost = min(set(range(len(nodes))) - set(order))
        raise reject("node_graph", f"has a node ({lost}) that is its own ancestor")
    for number in order:
        local = local_matrix(nodes[number])
        parent = parents[number]
        world[number] = local if parent < 0 else world[parent] @ local
    tops = _tops(tree, roots, len(nodes))
    visible = _walk(tops, children)
    if len(set(visible)) < len(visible):
        raise reject("node_graph", "has a scene that shows a node twice")
    return visible, world


def _parents(children: list[list[int]]) -> list[int]:
    """The parent of every node, -1 for none."""
    parents = [-1] * len(children)
    for number, below in enumerate(children):
        for child in below:
            if child >= len(children):
                raise reject("unreadable", f"names nodes[{child}], which does not exist")
            if parents[child] >= 0 or child == number:
                what = "is its own ancestor" if child == number else "has two parents"
                raise reject("node_graph", f"has a node ({child}) that {what}")
            parents[child] = number
    return parents


def _tops(tree: Tree, roots: list[int], count: int) -> list[int]:
    """The nodes at the top of the scene that is shown; without scenes, all roots."""
    if not tree.get("scenes"):
        return roots
    scene = json_tree.item(tree, "scenes", json_tree.whole(tree, "scene", 0))
    tops = json_tree.wholes(scene, "nodes")
    for number in tops:
        if number >= count:
            raise reject("unreadable", f"names nodes[{number}], which does not exist")
    return tops


def _walk(tops: list[int], children: list[list[int]]) -> list[int]:
    """Depth first, without recursion: scenes may be deeper than Python's stack."""
    order: list[int] = []
    waiting = tops[::-1]
    while waiting:
        if len(order) > 2 * len(children):
            raise reject("node_graph", "has a scene that shows a node twice")
        order.append(waiting.pop())
        waiting += children[order[-1]][::-1]
    return order


def local_matrix(node: Tree) -> Matrix:
    """Where a node is in its parent."""
    numbers = json_tree.real(node, "matrix", 16, None)
    if numbers is not None:
        return np.array(numbers).reshape(4, 4).T
    move = json_tree.real(node, "translation", 3, [0.0, 0.0, 0.0])
    turn = np.array(json_tree.real(node, "rotation", 4, [0.0, 0.0, 0.0, 1.0]))
    scale = np.array(json_tree.real(node, "scale", 3, [1.0, 1.0, 1.0]))
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(turn) * scale
    matrix[:3, 3] = move
    return matrix


def _rotation(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of x, y, z, w; one of another length than 1 is brought to 1."""
    length = float(np.linalg.norm(quaternion))
    if length < 1e-12 or not np.isfinite(length):
        raise reject("unreadable", "has a rotation that is none")
    x, y, z, w = quaternion * (np.sqrt(2) / length)
    return np.array(
        [
            [1 - y * y - z * z, x * y - z * w, x * z + y * w],
            [x * y + z * w, 1 - x * x - z * z, y * z - x * w],
            [x * z - y * w, y * z + x * w, 1 - x * x - y * y],
        ]
    )

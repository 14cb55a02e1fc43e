"""The catalogue: shape number i of an endless list, the same for everybody who asks for it.

Families take turns, so the first shapes are all of different kinds. A shape depends on (seed,
family, round) alone: adding a family at the end of the list leaves existing shapes as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from threed_gen.data.procedural import built, machined, revolved
from threed_gen.geometry.mesh import Mesh

LICENCE = "CC0-1.0"
Family = Callable[[np.random.Generator], Mesh]
FAMILIES: dict[str, Family] = {
    "mug": revolved.mug,
    "chair": built.chair,
    "gear": machined.gear,
    "bottle": revolved.bottle,
    "bracket": machined.bracket,
    "lamp": revolved.lamp,
    "table": built.table,
    "vase": revolved.vase,
    "bolt": machined.bolt,
    "bowl": revolved.bowl,
    "house": built.house,
    "ring": machined.ring,
    "pawn": revolved.pawn,
    "jack": machined.jack,
    "elbow": machined.elbow,
    "bench": built.bench,
    "hammer": machined.hammer,
    "goblet": revolved.goblet,
    "stairs": built.stairs,
    "star": machined.star,
    "knot": machined.knot,
}


def shape_name(index: int) -> str:
    """Name of shape number `index`: its family and its round, for example `mug_0003`."""
    family = list(FAMILIES)[index % len(FAMILIES)]
    return f"{family}_{index // len(FAMILIES):04d}"


def make_mesh(index: int, seed: int) -> tuple[str, Mesh]:
    """Shape number `index` (0, 1, …): its name, and a closed mesh with y up, about 1 unit tall."""
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    name = shape_name(index)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    mesh = FAMILIES[name.rsplit("_", 1)[0]](rng)
    x, y, z = mesh.vertices.T
    return name, Mesh(np.stack([x, z, -y], axis=1), mesh.faces)  # z up → y up, as in glTF


def shape_index(name: str) -> int:
    """The inverse of `shape_name`. ValueError for a name that is none."""
    family, _, number = name.rpartition("_")
    if family not in FAMILIES or not number.isdigit():
        raise ValueError(f"{name!r} is no procedural shape")
    return int(number) * len(FAMILIES) + list(FAMILIES).index(family)

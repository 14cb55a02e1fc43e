"""Ground planes and skyboxes: what scenes put around an object, and what would shrink it.

Only what can be told for certain is dropped, because what is dropped wrongly is lost. A ground
plane is one flat sheet, level by the format's idea of up, at least twice as large as all the rest,
which stands on it: a plate on a stand has the rest below, a wall is not level. A skybox is one
box or dome that contains all the rest and is 4 times as large when its faces look inwards, as sky
has to, and 10 times when they look outwards, as those of a container do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from threed_gen.geometry.mesh import Mesh, face_vectors, half_edges

GROUND = 2.0  # longest side of a ground plane, in longest sides of everything else
SKY_INWARD, SKY_OUTWARD = 4.0, 10.0  # the same of a skybox
_LEVEL = 1e-3  # height of a ground plane, as a fraction of its longest side
_SUNK = 0.25  # how much of the object's height may be below the ground
_ON_BOX = 1e-3  # distance of a vertex from the sides of a box, as a fraction of its longest side
_ON_DOME = 0.03  # unevenness of a dome, as a fraction of its radius
_LOOKED_AT = 8  # the largest parts; further ones cannot be surroundings of something


@dataclass(frozen=True)
class _Parts:
    """The edge-connected parts of a mesh and their boxes."""

    label: NDArray[np.int64]  # [F]
    low: NDArray[np.float64]  # [P, 3]
    high: NDArray[np.float64]  # [P, 3]

    def box(self, which: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The box around some parts."""
        return self.low[which].min(axis=0), self.high[which].max(axis=0)


def drop_surroundings(mesh: Mesh, up: int | None) -> tuple[Mesh, frozenset[str]]:
    """The mesh without ground planes and skyboxes, and the flags that say so.

    `up` is the axis that points up in the file; without it no ground plane can be told.
    """
    parts = _parts(mesh)
    sides = (parts.high - parts.low).max(axis=1)  # [P]
    if len(sides) < 2:
        return mesh, frozenset()
    largest = np.argsort(-sides, kind="stable")[:_LOOKED_AT]
    kinds = {int(p): kind for p in largest if (kind := _kind(mesh, parts, int(p), up))}
    dropped: dict[int, str] = {}
    kept = ~np.isin(np.arange(len(sides)), list(kinds))
    if not kinds:
        return mesh, frozenset()
    # From small to large, so that a skybox and the ground in it do not hide one another.
    for part in sorted(kinds, key=lambda p: (sides[p], p)):
        flag = _surrounds(parts, part, kept, kinds[part], up) if kept.any() else None
        if flag:
            dropped[part] = flag
        else:
            kept[part] = True
    # A part that was kept later may be larger: then the smaller ones belong to it.
    while back := [p for p in dropped if not _surrounds(parts, p, kept, kinds[p], up)]:
        for part in back:
            del dropped[part]
            kept[part] = True
    if not dropped or not _has_volume(mesh, kept[parts.label]):
        return mesh, frozenset()
    used, faces = np.unique(mesh.faces[kept[parts.label]], return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3)), frozenset(dropped.values())


def _parts(mesh: Mesh) -> _Parts:
    """Faces that share an edge are of one part."""
    count = len(mesh.faces)
    edges = np.sort(half_edges(mesh.faces), axis=1)
    keys = edges[:, 0] * len(mesh.vertices) + edges[:, 1]
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    a, b = order[:-1][same] % count, order[1:][same] % count
    graph = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    by_part = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[by_part], np.arange(label.max() + 1))
    a, b, c = (mesh.vertices[corner[by_part]] for corner in mesh.faces.T)
    low = np.minimum.reduceat(np.minimum(np.minimum(a, b), c), starts)
    high = np.maximum.reduceat(np.maximum(np.maximum(a, b), c), starts)
    return _Parts(label.astype(np.int64), low, high)


def _kind(mesh: Mesh, parts: _Parts, part: int, up: int | None) -> str | None:
    """What a part may be by its own shape: a level sheet, or a box or dome that looks in or out."""
    size = parts.high[part] - parts.low[part]
    side = float(size.max())
    if up is not None and size[up] <= _LEVEL * side:
        return "sheet"
    faces = mesh.faces[parts.label == part]
    points = mesh.vertices[np.unique(faces)]
    if size.min() <= 0.1 * side or not (_is_box(points, side) or _is_dome(points)):
        return None
    body = Mesh(mesh.vertices, faces)
    middle = (parts.low[part] + parts.high[part]) / 2
    outward = np.einsum("ij,ij->i", face_vectors(body), body.triangles.mean(axis=1) - middle)
    return "inward" if outward.sum() < 0 else "outward"


def _is_box(points: NDArray[np.float64], side: float) -> bool:
    """True when every vertex lies on a side of the box around them."""
    low, high = points.min(axis=0), points.max(axis=0)
    distance = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    return bool((distance <= _ON_BOX * side).all())


def _is_dome(points: NDArray[np.float64]) -> bool:
    """True when every vertex lies on one sphere (its best fit); domes need not be whole."""
    if len(points) < 20:
        return False
    middle = points.mean(axis=0)
    p = points - middle
    system = np.concatenate([2 * p, np.ones((len(p), 1))], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(system, (p * p).sum(axis=1), rcond=None)
    if rank < 4:
        return False
    distance = np.linalg.norm(p - solution[:3], axis=1)
    return bool(np.abs(distance / distance.mean() - 1).max() <= _ON_DOME)


def _surrounds(
    parts: _Parts, part: int, kept: NDArray[np.bool_], kind: str, up: int | None
) -> str | None:
    """The flag of a part that is the surroundings of what is kept, or None."""
    low, high = parts.box(kept)
    mine_low, mine_high = parts.low[part], parts.high[part]
    rest = float((high - low).max())
    size = mine_high - mine_low
    middle = (low + high) / 2
    if kind == "sheet" and up is not None:
        across = [axis for axis in range(3) if axis != up]
        under = mine_low[up] <= low[up] + _SUNK * (high[up] - low[up])
        around = all(mine_low[a] <= middle[a] <= mine_high[a] for a in across)
        return "ground_plane_dropped" if under and around and size.max() >= GROUND * rest else None
    factor = SKY_INWARD if kind == "inward" else SKY_OUTWARD
    slack = 0.01 * rest  # what stands on the floor of a skybox may be sunk a little
    contains = bool((mine_low <= low + slack).all() and (mine_high >= high - slack).all())
    large = size.max() >= factor * rest and size.min() >= GROUND * rest
    return "skybox_dropped" if contains and large else None


def _has_volume(mesh: Mesh, faces: NDArray[np.bool_]) -> bool:
    """True when some faces are no flat figure, however it is turned."""
    points = mesh.vertices[np.unique(mesh.faces[faces])]
    points = points - points.mean(axis=0)
    spread = np.linalg.eigvalsh(points.T @ points)
    return bool(spread[0] > 1e-8 * spread[2])

"""Makes a Surface of whatever a file holds: the faces that count, wound outwards, openings capped.

In order: degenerate and duplicate faces go, the rest is cut into patches that are wound alike,
small openings get lids, patches that bound a volume are wound by its sign, and open ones by the
side that sees more sky. A patch inside another is wound outwards like any other, so that a wall
inside a solid never carves a hole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.caps import find_caps
from threed_gen.geometry.connectivity import component_labels
from threed_gen.geometry.duplicates import without_duplicates
from threed_gen.geometry.frame import FILL, unit_frame
from threed_gen.geometry.mesh import Mesh, MeshError, face_areas
from threed_gen.geometry.patches import cut_into_patches, patch_edges
from threed_gen.geometry.surface import OpenSurface, RepairReport, Surface
from threed_gen.geometry.visibility import outward_votes

_FLAT = 1e-4  # of the longest side: within this distance of one plane, a mesh is a figure
_NO_AREA = 1e-14  # in the unit cube: a part this small holds only segments
# A lid with more of the area of its volume than this would be a second copy of a sheet.
_LARGEST_LID, _LARGEST_LID_WHEN_ASKED = 0.75, 0.95


def repair(
    mesh: Mesh,
    policy: OpenSurface = "shell",
    cap_extent: float = 0.05,
    device: str | None = None,
) -> Surface:
    """The surface of a mesh whose vertices are merged by position, in the unit cube.

    Openings whose box has a longest side of up to `cap_extent` of the mesh's own are capped, and
    with the policy `cap` all. Raises MeshError `no_faces`, `non_finite`, `no_extent` or `flat`.
    """
    unit, scale, offset = unit_frame(mesh)
    _demand_depth(unit)
    source = _with_area(unit)
    once = without_duplicates(unit.vertices, source)
    # One part after the other, each in its first order.
    once = once[np.argsort(component_labels(once), kind="stable")]
    patches = cut_into_patches(once)
    label, closed = patches.label, patches.closed.copy()
    faces = patches.faces
    is_open = np.flatnonzero(~closed[label])
    largest = np.inf if policy == "cap" else cap_extent * FILL * (1 + 1e-9)
    lid = _LARGEST_LID_WHEN_ASKED if policy == "cap" else _LARGEST_LID
    caps = find_caps(unit.vertices, faces[is_open], label[is_open], largest, lid)
    vertices = np.concatenate([unit.vertices, caps.vertices])
    faces = np.concatenate([faces, caps.faces])
    label = np.concatenate([label, caps.patch])
    is_cap = np.arange(len(faces)) >= len(once)
    closed |= _closed_now(label, faces, closed)
    surface = Mesh(vertices, faces)
    votes = outward_votes(surface, label, ~closed, device)
    turned = np.where(closed, _volumes(surface, label) < 0, votes < 0)
    turned &= patches.orientable | ~closed
    faces = np.where(turned[label][:, None], faces[:, ::-1], faces)
    area = face_areas(surface)
    total = max(float(area.sum()), 1e-300)
    report = RepairReport(
        degenerate=len(mesh.faces) - len(source),
        duplicates=len(source) - len(once),
        flipped=_flipped(once, faces[: len(once)]),
        patches=len(closed),
        closed_patches=int(closed.sum()),
        caps=caps.loops,
        cap_share=float(area[is_cap].sum()) / total,
        open_share=float(area[~closed[label]].sum()) / total,
    )
    return Surface(
        vertices=vertices,
        faces=np.ascontiguousarray(faces),
        patch=label,
        closed=closed,
        orientable=patches.orientable,
        cap=is_cap,
        scale=scale,
        offset=offset,
        policy=policy,
        report=report,
    )


def _demand_depth(unit: Mesh) -> None:
    """Refuse plane figures, however they lie in space."""
    used = np.zeros(len(unit.vertices), dtype=bool)
    used[unit.faces] = True
    points = unit.vertices[used]
    points = points - points.mean(axis=0)
    first = points - points[np.argmax((points**2).sum(axis=1))]
    along = first[np.argmax((first**2).sum(axis=1))]
    across = np.cross(first, along)
    widest = across[np.argmax((across**2).sum(axis=1))]
    spread = np.linalg.eigh(points.T @ points)[1][:, 0]  # direction of least variance
    for normal in (np.eye(3)[0], np.eye(3)[1], np.eye(3)[2], widest, spread):
        length = float(np.linalg.norm(normal))
        if np.ptp(points @ normal) <= 2 * _FLAT * FILL * max(length, 1e-30):
            raise MeshError("the mesh is flat: all its vertices lie in one plane", "flat")


def _with_area(unit: Mesh) -> NDArray[np.int64]:
    """Faces without those that are a segment or a point.

    A face without area that has neighbours stays: taking it out would open the surface.
    """
    a, b, c = unit.faces.T
    faces = unit.faces[(a != b) & (b != c) & (c != a)]
    area = face_areas(Mesh(unit.vertices, faces))
    if (area <= _NO_AREA).any():
        part = component_labels(faces)
        faces = faces[np.bincount(part, weights=area)[part] > _NO_AREA]
    if len(faces) == 0:
        raise MeshError("every face of the mesh is degenerate", "no_faces")
    return faces


def _closed_now(
    label: NDArray[np.int64], faces: NDArray[np.int64], closed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Patches that were open and of which, with their caps, every edge is even, [P]."""
    rows = np.flatnonzero(~closed[label])
    edges = patch_edges(label[rows], faces[rows])
    now = ~closed
    now[edges.patch[edges.count % 2 == 1]] = False
    return now


def _volumes(surface: Mesh, label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed volume of each patch, measured from the middle of its own box, [P]."""
    order = np.argsort(label, kind="stable")
    corners = surface.vertices[surface.faces[order]]
    start = np.flatnonzero(np.diff(label[order], prepend=-1))
    low = np.minimum.reduceat(corners.min(axis=1), start)
    high = np.maximum.reduceat(corners.max(axis=1), start)
    a, b, c = np.moveaxis(corners - ((low + high) / 2)[label[order]][:, None], 1, 0)
    return np.add.reduceat(np.einsum("ij,ij->i", a, np.cross(b, c)), start) / 6.0


def _flipped(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    """How many faces are wound the other way than before."""
    at = np.argmax(after == before[:, :1], axis=1)
    next_corner = after[np.arange(len(after)), (at + 1) % 3]
    return int(np.count_nonzero(next_corner != before[:, 1]))

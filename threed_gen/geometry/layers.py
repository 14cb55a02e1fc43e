"""From a repaired surface to what is measured: which voxels are inside, which faces are what.

In this order: closed patches tell inside from outside by their winding numbers; their walls that
no voxel sees count as open faces; the space that neither a closed patch nor the half voxel diagonal
around open faces takes up is flooded, and what the water does not reach is inside as well; the
voxels close to open faces, and the faces, are told by the space on their two sides. Then every
face, or piece of one, is a

  wall      it parts inside from outside
  sheet     outside on both sides; it becomes a shell (sheets.py)
  interior  inside on both sides; dropped (interior.py)

Where the closed patches explain everything, all faces are walls as they are and nothing is cut, so
that the field of a clean mesh owes nothing to this file. The water passes a closed patch exactly
where the grid has outside voxels to pass: a bottle stays open as long as its neck is a voxel wide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.brick_grid import BrickGrid, VoxelSet
from threed_gen.geometry.candidates import CHUNK_BRICKS, candidate_bricks, union_of_bricks
from threed_gen.geometry.distance import TriangleDistance
from threed_gen.geometry.flood import enclosed
from threed_gen.geometry.interior import INTERIOR, WALL, Sorted, buried, sort_faces
from threed_gen.geometry.mesh import Mesh
from threed_gen.geometry.open_winding import close_openings
from threed_gen.geometry.rays import RayMesh
from threed_gen.geometry.sheets import SHEET, SHEET_VOXELS, Sides, settle, sheet_or_wall
from threed_gen.geometry.signs import InsideTest, SignReport
from threed_gen.geometry.surface import Surface
from threed_gen.geometry.thin_walls import THIN, find_thin_walls

_NONE = np.zeros((0, 3, 3))


@dataclass(frozen=True)
class Faces:
    """Triangles that are treated alike, and the faces of the surface that they are."""

    corners: NDArray[np.float64]  # [n, 3, 3]
    number: NDArray[np.int64]  # [n] -1 for a piece of a face

    def of_kind(self, found: Sorted, kind: int) -> Faces:
        """Those of one kind, whole ones first."""
        pieces = found.pieces[found.piece_kind == kind]
        return Faces(
            np.concatenate([self.corners[found.kind == kind], pieces]),
            np.concatenate([self.number[found.kind == kind], np.full(len(pieces), -1)]),
        )

    def __add__(self, other: Faces) -> Faces:
        return Faces(
            np.concatenate([self.corners, other.corners]),
            np.concatenate([self.number, other.number]),
        )

    @property
    def area(self) -> float:
        a, b, c = np.moveaxis(self.corners, 1, 0)
        return float(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())


@dataclass(frozen=True)
class Layers:
    """Everything that the measuring needs to know about a surface on one grid."""

    inside: VoxelSet  # its grid lists all bricks that may hold a band voxel
    walls: TriangleDistance | None
    sheets: TriangleDistance | None = None
    dropped: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # whole faces
    deep: VoxelSet | None = None  # voxels with only inside around them; None: no face was judged
    ragged: bool = False  # the inside may end where no wall is near: at gaps between open faces
    report: SignReport = field(default_factory=SignReport)


def find_layers(surface: Surface, resolution: int, tau: float, device: str | None) -> Layers:
    """Sort out a surface for a grid of R^3 voxels on which distances up to `tau` are kept."""
    corners, closed = surface.vertices[surface.faces], surface.closed_faces
    strong, weak = (Faces(corners[c], np.flatnonzero(c)) for c in (closed, ~closed))
    test = InsideTest(surface, resolution)
    near = _Near(strong, weak, resolution, tau, device)
    inside, overlap = test.on_grid(near.grid)
    found = find_thin_walls(strong.corners, inside)
    thin = strong.of_kind(found, THIN)
    if len(thin.corners):
        strong, weak = strong.of_kind(found, WALL), weak + thin
        near = _Near(strong, weak, resolution, tau, device)
        inside, overlap = test.on_grid(near.grid)
    if near.weak is not None:
        return _with_open_faces(surface, inside, strong, weak, near.weak, thin.area, device)
    dry, pieces = enclosed(inside.complement())
    if pieces == 0 and not overlap:
        return Layers(inside, near.strong)
    inside = inside | dry
    deep = inside.shrunk(1)
    found = sort_faces(strong.corners, 1.0 / resolution, buried(deep))
    hidden = strong.of_kind(found, INTERIOR)
    report = SignReport(
        interior_share=hidden.area / strong.area,
        enclosed_share=float(dry.bits.mean()),
        enclosed_pieces=pieces,
    )
    walls = _distance(strong.of_kind(found, WALL).corners, device)
    return Layers(inside, walls, dropped=hidden.number, deep=deep, report=report)


def _with_open_faces(
    surface: Surface,
    inside: VoxelSet,
    strong: Faces,
    weak: Faces,
    distance: TriangleDistance,
    thin_area: float,
    device: str | None,
) -> Layers:
    """The same where some faces (`weak`, with their distance) are open or not seen by any voxel."""
    resolution = inside.grid.resolution
    close = _close(distance, inside)
    dry, pieces = enclosed((inside | close).complement())
    inside = inside | dry
    lids = _NONE
    open_faces = surface.faces[~surface.closed_faces]
    if surface.policy == "winding" and len(open_faces):
        openings = close_openings(inside, close, Mesh(surface.vertices, open_faces))
        inside, close = openings.inside, close.on(openings.inside.grid)
        lids = _away_from(openings.lids, distance, SHEET_VOXELS / resolution)
    total = strong.area + weak.area
    report = SignReport(
        thin_share=thin_area / total,
        enclosed_share=float(dry.bits.mean()),
        enclosed_pieces=pieces,
    )
    if not inside:
        report = report.with_shares(sheet=weak.area / total, interior=0.0)
        return Layers(inside, None, distance, report=report)
    obstacles = RayMesh(np.concatenate([strong.corners, weak.corners]), device)
    inside = settle(inside, close, weak.corners, distance, obstacles)
    rule = sheet_or_wall(Sides(inside, close), obstacles)
    found = sort_faces(weak.corners, 1.0 / resolution, rule)
    sheets, walls = weak.of_kind(found, SHEET), strong + weak.of_kind(found, WALL)
    shells = _distance(sheets.corners, device)
    # Crevices that voxels were settled in, and shells, can leave pockets that nothing leads to.
    solid = inside if shells is None else inside | _close(shells, inside)
    inside = inside | enclosed(solid.complement())[0]
    deep = inside.shrunk(1)
    found = sort_faces(walls.corners, 1.0 / resolution, buried(deep))
    hidden, walls = walls.of_kind(found, INTERIOR), walls.of_kind(found, WALL)
    return Layers(
        inside,
        _distance(np.concatenate([walls.corners, lids]), device),
        shells,
        dropped=hidden.number[hidden.number >= 0],
        deep=deep,
        ragged=True,
        report=report.with_shares(sheet=sheets.area / total, interior=hidden.area / total),
    )


class _Near:
    """Distances from walls and from open faces, and all bricks that may hold a band voxel."""

    def __init__(
        self, strong: Faces, weak: Faces, resolution: int, tau: float, device: str | None
    ) -> None:
        self.strong = _distance(strong.corners, device)
        self.weak = _distance(weak.corners, device)
        bricks = np.zeros((0, 3), dtype=np.int32)
        shell = SHEET_VOXELS / resolution
        for distance, reach in ((self.strong, tau), (self.weak, tau + shell)):
            if distance is not None:
                found = candidate_bricks(distance, resolution, reach)
                bricks = union_of_bricks(bricks, found, resolution)
        self.grid = BrickGrid(bricks, resolution)


def _distance(corners: NDArray[np.float64], device: str | None) -> TriangleDistance | None:
    return TriangleDistance(corners, device) if len(corners) else None


def _close(distance: TriangleDistance, inside: VoxelSet) -> VoxelSet:
    """Voxels outside all closed patches that lie within half a voxel diagonal of open faces."""
    grid = inside.grid
    bits = np.zeros_like(inside.bits)
    reach = SHEET_VOXELS / grid.resolution
    for start in range(0, len(bits), CHUNK_BRICKS):
        rows = slice(start, start + CHUNK_BRICKS)
        near = np.isfinite(distance.of_bricks(grid.bricks[rows], grid.resolution, reach))
        bits[rows] = near & ~inside.bits[rows]
    return VoxelSet(grid, bits, np.zeros_like(inside.cells))


def _away_from(
    corners: NDArray[np.float64], distance: TriangleDistance, reach: float
) -> NDArray[np.float64]:
    """Triangles of which no corner is nearer than `reach` to the surface."""
    near = np.isfinite(distance.of_points(corners.reshape(-1, 3), reach)[0])
    return corners[~near.reshape(-1, 3).any(axis=1)]

"""Surface: what repair makes of a mesh, ready to be measured at any resolution.

Every face belongs to one patch, a connected piece whose faces are wound alike. A closed patch
bounds a volume, so rays that cross it tell inside from outside; an open one is a sheet, of which
only the distance is certain. The faces that capping added are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from threed_gen.geometry.mesh import Mesh

OpenSurface = Literal["shell", "cap", "winding"]  # what becomes of openings too large to cap


@dataclass(frozen=True)
class RepairReport:
    """What was done to one mesh, in plain numbers."""

    degenerate: int  # faces dropped: two equal corners, or a whole patch without area
    duplicates: int  # faces dropped because the file holds them more than once
    flipped: int  # faces turned round
    patches: int
    closed_patches: int  # after capping
    caps: int  # openings that were capped
    cap_share: float  # area of the caps, as a share of all area
    open_share: float  # area of the faces in open patches, as a share of all area


@dataclass(frozen=True)
class Surface:
    """A repaired mesh in the unit cube; independent of the resolution."""

    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3] no duplicates; patches oriented; caps included, at the end
    patch: NDArray[np.int64]  # [F] patch of each face, 0..P-1
    closed: NDArray[np.bool_]  # [P] the patch bounds a volume: its crossings cancel on every ray
    orientable: NDArray[np.bool_]  # [P] False: only the parity of crossings means something
    cap: NDArray[np.bool_]  # [F] added by capping
    scale: float  # mesh_xyz = unit_xyz * scale + offset
    offset: tuple[float, float, float]
    policy: OpenSurface
    report: RepairReport

    @property
    def mesh(self) -> Mesh:
        """All faces as one mesh of the unit cube."""
        return Mesh(self.vertices, self.faces)

    @property
    def closed_faces(self) -> NDArray[np.bool_]:
        """True for faces of closed patches, bool [F]."""
        return self.closed[self.patch]

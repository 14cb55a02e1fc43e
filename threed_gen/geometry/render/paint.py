"""PaintedMesh: triangles with the colour of their surface, ready to be photographed.

Colour is base colour alone, in linear light: the material's factor times its texture times the
colour of the vertices. Shine, emission and normal maps are left out, as conditioning pictures are
lit anew for every view. Both sides of a face are seen, whatever the file says: in the wild half
of the windings are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from threed_gen.geometry.frame import CENTRE, unit_frame
from threed_gen.geometry.mesh import Mesh

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
Color = tuple[float, float, float, float]  # linear light, straight alpha
NEUTRAL: Color = (0.62, 0.61, 0.59, 1.0)  # of what has no colour of its own: a warm light grey
_NEAR = 1e-6  # of the longest side; positions of the loaded mesh are merged to 1e-8

# What is noted about the colours of a mesh; the mesh is photographed all the same. Documents
# print this table.
PAINT_FLAGS = {
    "texture_missing": "an image that the file names is not in its folder: neutral colour there",
    "texture_outside": "an image outside the folder of the file was not opened: neutral colour",
    "texture_too_large": "an image has too many pixels: neutral colour there",
    "texture_unreadable": "an image is damaged or of an unknown kind: neutral colour there",
    "material_unreadable": "materials or texture coordinates are damaged: neutral colour",
}


@dataclass(frozen=True)
class Material:
    """How faces look."""

    color: Color = NEUTRAL  # factor of everything else
    texture: int = -1  # number in `PaintedMesh.textures`; -1: none
    alpha_mode: AlphaMode = "OPAQUE"
    cutoff: float = 0.5  # of MASK: less alpha than this is a hole


@dataclass(frozen=True)
class PaintedMesh:
    """Triangles with colours; corners are not shared, as seams of textures divide them.

    Texture coordinates have their origin at the top left of the picture, as in glTF, and repeat.
    """

    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3]
    uv: NDArray[np.float32]  # [F, 3, 2] by face and corner
    colors: NDArray[np.float32]  # [F, 3, 4] of the corners, linear light
    material: NDArray[np.int32]  # [F] number in `materials`
    materials: tuple[Material, ...]
    textures: tuple[NDArray[np.uint8], ...] = ()  # each [H, W, 4] sRGB with straight alpha
    flags: tuple[str, ...] = ()  # of PAINT_FLAGS, sorted

    def __post_init__(self) -> None:
        F = len(self.faces)
        assert self.faces.shape == (F, 3) and self.vertices.shape[1:] == (3,)
        assert self.uv.shape == (F, 3, 2) and self.colors.shape == (F, 3, 4)
        assert self.material.shape == (F,)
        assert all(t.ndim == 3 and t.shape[2] == 4 for t in self.textures)


def plain(mesh: Mesh, color: Color = NEUTRAL, flags: tuple[str, ...] = ()) -> PaintedMesh:
    """A mesh of one colour (linear light)."""
    F = len(mesh.faces)
    return PaintedMesh(
        mesh.vertices,
        mesh.faces,
        np.zeros((F, 3, 2), np.float32),
        np.ones((F, 3, 4), np.float32),
        np.zeros(F, np.int32),
        (Material(color),),
        flags=flags,
    )


def in_unit_frame(painted: PaintedMesh, mesh: Mesh) -> PaintedMesh:
    """The painted mesh in the unit frame of `mesh`, less what `mesh` does not hold.

    `mesh` is what the door of mesh files made of the same file: ground planes and skyboxes are
    gone from it, and decide neither what is seen nor where the frame lies.
    """
    low, high = mesh.bounds
    _, scale, _ = unit_frame(mesh)
    reach = _NEAR * float((high - low).max())
    finite = np.asarray(np.isfinite(painted.vertices).all(axis=1))
    distance: NDArray[np.float64] = np.full(len(painted.vertices), np.inf)
    distance[finite], _ = cKDTree(mesh.vertices).query(
        painted.vertices[finite], distance_upper_bound=reach
    )
    kept = (distance[painted.faces].max(axis=1, initial=0.0)) <= reach
    # The middle is subtracted first, as unit_frame does: far from the origin digits would go.
    unit = (painted.vertices - (low + high) / 2) / scale + CENTRE
    return replace(
        painted,
        vertices=np.where(finite[:, None], unit, CENTRE),
        faces=painted.faces[kept],
        uv=painted.uv[kept],
        colors=painted.colors[kept],
        material=painted.material[kept],
    )


def linear_from_srgb(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light to sRGB, clipped to [0, 1]."""
    low = np.clip(values, 0.0, 1.0)
    return np.where(low <= 0.0031308, 12.92 * low, 1.055 * low ** (1 / 2.4) - 0.055)

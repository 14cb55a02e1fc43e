"""The door of mesh files with their colours: geometry as mesh_io reads it, painted where it can be.

Colours never reject a mesh: what cannot be read of them is neutral and leaves a flag (PAINT_FLAGS).
Files are not trusted. The limits are those of mesh_io and textures.py, and `prepare` reads them in
its child processes.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from threed_gen.geometry.mesh import MeshError
from threed_gen.geometry.mesh_io import load_asset, open_asset
from threed_gen.geometry.reading.reasons import ReadLimits
from threed_gen.geometry.render.paint import PaintedMesh, in_unit_frame, plain
from threed_gen.geometry.render.paint_gltf import paint_gltf
from threed_gen.geometry.render.paint_obj import paint_obj
from threed_gen.geometry.render.paint_ply import paint_ply


def load_painted(path: Path, limits: ReadLimits = ReadLimits()) -> PaintedMesh:  # noqa: B008
    """Read a mesh file with its colours, in the unit frame.

    Raises MeshError as `load_asset` does: for the geometry alone.
    """
    path = Path(path)
    mesh = load_asset(path, limits).mesh
    try:
        painted = _painted(path, limits)
    except (
        MeshError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError,
        struct.error,
    ):  # fmt: skip
        painted = plain(mesh, flags=("material_unreadable",))
    found = in_unit_frame(painted or plain(mesh), mesh)
    if len(found.faces) == 0:  # cannot be, unless the two readers see different files
        found = in_unit_frame(plain(mesh, flags=("material_unreadable",)), mesh)
    return replace(found, flags=tuple(sorted(found.flags)))


def _painted(path: Path, limits: ReadLimits) -> PaintedMesh | None:
    content, suffix, beside = open_asset(path, limits)
    with np.errstate(over="ignore", invalid="ignore"):
        match suffix.lower():
            case ".glb" | ".gltf":
                return paint_gltf(content, beside, limits)
            case ".obj":
                return paint_obj(content, beside, limits)
            case ".ply":
                return paint_ply(content, limits)
            case _:
                return None

"""From a surface to a file that opens elsewhere: fewer faces, closed openings, GLB, OBJ or PLY.

Axes and units are those of glTF in every format: right-handed, +y up, as the training data has it.
A generated shape lies around the origin in the cube [-½, ½]³, which glTF reads as metres. Programs
in which z is up turn GLB and OBJ by themselves; of a PLY they must be told (Blender: "Up Axis: Y").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threed_gen.errors import UserError
from threed_gen.files import write_atomically
from threed_gen.geometry.caps import find_caps
from threed_gen.geometry.connectivity import component_labels
from threed_gen.geometry.mesh import Mesh, face_vectors

SUFFIXES = (".glb", ".obj", ".ply")
LARGEST_HOLE = 0.1  # longest side of an opening that is closed, in longest sides of the mesh
LARGEST_LID = 0.5  # area of a lid, as a share of all else that bounds the volume it closes
FEWEST_FACES = 4
GREY = (0.72, 0.72, 0.72, 1.0)  # of a shape without colours


def check_target(path: Path) -> None:
    """Raise UserError unless a mesh can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        known = " ".join(SUFFIXES)
        raise UserError(f"{path}: cannot write this mesh format (known: {known})")
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give the name of a file")


def fill_holes(mesh: Mesh) -> tuple[Mesh, int]:
    """The mesh with its smaller openings closed by fans, and how many these are."""
    low, high = mesh.bounds
    largest = LARGEST_HOLE * float((high - low).max())
    caps = find_caps(
        mesh.vertices, mesh.faces, component_labels(mesh.faces), largest, LARGEST_LID
    )  # fmt: skip
    vertices = np.concatenate([mesh.vertices, caps.vertices])
    return Mesh(vertices, np.concatenate([mesh.faces, caps.faces])), caps.loops


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about so many faces, by quadric edge collapse (Garland and Heckbert 1997).

    As it is when it has no more than that. Raises UserError for fewer than 4 faces.
    """
    if faces < FEWEST_FACES:
        raise UserError(f"--faces {faces}: a mesh needs at least {FEWEST_FACES} faces")
    if len(mesh.faces) <= faces:
        return mesh
    import fast_simplification

    low, high = mesh.bounds
    middle, side = (low + high) / 2, float((high - low).max())
    # The library computes in float32 and judges by absolute sizes: give it a unit cube.
    points = ((mesh.vertices - middle) / side).astype(np.float32)
    points, triangles = fast_simplification.simplify(
        points, mesh.faces.astype(np.int32), target_count=faces
    )
    return Mesh(points.astype(np.float64) * side + middle, triangles.astype(np.int64))


def vertex_normals(mesh: Mesh) -> NDArray[np.float64]:
    """Unit normals [V, 3] that point outwards: of the faces around, weighted by their area."""
    total = np.zeros_like(mesh.vertices)
    normals = face_vectors(mesh)
    for corner in range(3):
        np.add.at(total, mesh.faces[:, corner], normals)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    upright = np.broadcast_to(
        [0.0, 1.0, 0.0], total.shape
    )  # where faces cancel; unit, as glTF asks
    return np.where(length > 0, total / np.where(length > 0, length, 1), upright)


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh with vertex normals in the format of the suffix, whole or not at all.

    Raises UserError for another suffix or a mesh without faces, DiskError when the disk is full.
    """
    check_target(path)
    if not len(mesh.faces):
        raise UserError(f"{path}: a mesh without faces cannot be written")
    write_atomically(path, _encoded(mesh, path.suffix.lower()), "the mesh")


def _encoded(mesh: Mesh, suffix: str) -> bytes:
    import trimesh

    body = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=vertex_normals(mesh), process=False
    )
    content: Any
    if suffix == ".glb":
        body.visual = trimesh.visual.TextureVisuals(
            material=trimesh.visual.material.PBRMaterial(
                baseColorFactor=GREY, metallicFactor=0.0, roughnessFactor=0.9
            )
        )
        content = body.export(file_type="glb", include_normals=True)
    elif suffix == ".obj":
        content = body.export(file_type="obj", include_normals=True, digits=7)
    else:
        content = body.export(file_type="ply", vertex_normal=True)
    return content.encode() if isinstance(content, str) else bytes(content)

"""Mesh files in, mesh files out: glb, gltf, obj, ply, stl, off.

Reading places every part of a scene by its node transform, makes one triangle mesh of it and
merges vertices by position: files split them at seams of texture or normals, and a mesh split like
that has no closed surface and no dihedral angles. Writing goes to a temporary name first, so that
a killed program never leaves half a mesh behind.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from threed_gen.files import write_atomically
from threed_gen.geometry.mesh import Mesh, MeshError, merge_by_position

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
_WRITABLE = (".glb", ".obj", ".ply", ".stl", ".off")


def load_mesh(path: Path) -> Mesh:
    """Read a mesh file, in the file's own units and axes.

    Raises MeshError, one line that names the file, with `.reason` one of: missing, format,
    empty_file, unreadable, no_faces, non_finite, no_extent.
    """
    path = Path(path)
    if not path.is_file():
        raise MeshError(f"{path}: no such mesh file", "missing")
    if path.suffix.lower() not in MESH_SUFFIXES:
        known = " ".join(MESH_SUFFIXES)
        raise MeshError(f"{path}: not a mesh format that can be read (known: {known})", "format")
    if path.stat().st_size == 0:
        raise MeshError(f"{path}: the file is empty", "empty_file")
    vertices, faces = _concatenate(_read_scene(path))
    if len(faces) == 0:
        raise MeshError(f"{path}: holds no faces (points or lines only?)", "no_faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError(f"{path}: unreadable: faces name vertices that do not exist", "unreadable")
    if not np.isfinite(vertices[faces]).all():
        raise MeshError(f"{path}: has vertices that are not finite numbers", "non_finite")
    raw = Mesh(np.nan_to_num(vertices), faces)
    low, high = raw.bounds
    with np.errstate(over="ignore"):
        extent = float((high - low).max())
    if not np.isfinite(extent):
        raise MeshError(f"{path}: vertices too far apart to measure", "non_finite")
    if extent <= 1e-30:
        raise MeshError(f"{path}: has no extent, all vertices are in one place", "no_extent")
    mesh = merge_by_position(raw)
    if len(mesh.faces) == 0:
        raise MeshError(f"{path}: every face is degenerate", "no_faces")
    return mesh


def save_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh in the format of the suffix (.glb .obj .ply .stl .off), whole or not at all."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITABLE:
        known = " ".join(_WRITABLE)
        raise MeshError(f"{path}: cannot write this mesh format (known: {known})", "format")
    content = _encode(mesh, suffix)
    write_atomically(path, content, "the mesh")


def _read_scene(path: Path) -> Any:
    import trimesh

    # The reader tells its worries to the log; ours are told once, as an error of one line.
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return trimesh.load_scene(path, process=False)
    except MemoryError:
        raise
    except Exception as err:  # the format readers raise anything at all on damaged files
        first = (str(err).strip().splitlines() or [""])[0][:120]
        text = f"{path}: unreadable as {path.suffix.lower()}: {type(err).__name__}: {first}"
        raise MeshError(text, "unreadable") from err
    finally:
        logger.setLevel(level)


def _concatenate(scene: Any) -> tuple[np.ndarray, np.ndarray]:
    """All triangle meshes of a scene, each where its node puts it."""
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    count = 0
    for node in sorted(scene.graph.nodes_geometry):
        matrix, name = scene.graph[node]
        part = scene.geometry[name]
        if not hasattr(part, "faces") or len(part.faces) == 0:
            continue  # points, lines: if nothing else is there, the caller says no_faces
        matrix = np.asarray(matrix, dtype=np.float64)
        placed = np.asarray(part.vertices, dtype=np.float64)
        if not np.array_equal(matrix, np.eye(4)):
            placed = placed @ matrix[:3, :3].T + matrix[:3, 3]
        corners = np.asarray(part.faces, dtype=np.int64)
        if np.linalg.det(matrix[:3, :3]) < 0:
            corners = corners[:, ::-1]  # a mirroring node turns the winding round
        vertices.append(placed)
        faces.append(corners + count)
        count += len(placed)
    if not faces:
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)
    return np.concatenate(vertices), np.concatenate(faces)


def _encode(mesh: Mesh, suffix: str) -> bytes:
    import trimesh

    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    if len(mesh.faces) == 0:
        raise MeshError("a mesh without faces cannot be written", "no_faces")
    content = body.export(file_type=suffix[1:])
    return content.encode() if isinstance(content, str) else bytes(content)

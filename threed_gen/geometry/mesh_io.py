"""The door of mesh files: glb, gltf, obj, ply, stl, off in (also one in a .zip), most of them out.

Reading places every part of a scene by its node transform, makes one triangle mesh of it and
merges vertices by position: files split them at seams of texture or normals, and a mesh split like
that has no closed surface and no dihedral angles. Ground planes and skyboxes are taken away.
Whatever a file holds, the outcome is a mesh or a MeshError of one line with a reason; the readers
are in geometry/reading, the reasons in REASONS there. Writing goes to a temporary name first, so
that a killed program never leaves half a mesh behind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from threed_gen.files import write_atomically
from threed_gen.geometry.mesh import Mesh, MeshError, merge_by_position
from threed_gen.geometry.reading.archive import Archive
from threed_gen.geometry.reading.beside import Beside, Folder, check_bytes
from threed_gen.geometry.reading.gltf import read_gltf
from threed_gen.geometry.reading.obj import read_obj
from threed_gen.geometry.reading.off import read_off
from threed_gen.geometry.reading.ply import read_ply
from threed_gen.geometry.reading.reasons import Raw, ReadLimits, reject, shown
from threed_gen.geometry.reading.stl import read_stl
from threed_gen.geometry.surroundings import drop_surroundings

PLAIN_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
MESH_SUFFIXES = (*PLAIN_SUFFIXES, ".zip")
_WRITABLE = (".glb", ".obj", ".ply", ".stl", ".off")


@dataclass(frozen=True)
class LoadedMesh:
    """A mesh, and what is to be said about how it came out of its file (FLAGS in reading)."""

    mesh: Mesh
    flags: tuple[str, ...] = ()  # sorted


def load_mesh(path: Path) -> Mesh:
    """Read a mesh file, in the file's own units and axes; MeshError as `load_asset`."""
    return load_asset(path).mesh


def load_asset(path: Path, limits: ReadLimits = ReadLimits()) -> LoadedMesh:  # noqa: B008  frozen
    """Read a mesh file, in the file's own units and axes, and note what was left out.

    Raises MeshError, one line that names the file, with `.reason` one of REASONS.
    """
    path = Path(path)
    try:
        raw = _read(path, limits)
        return _finished(raw)
    except MeshError as err:
        raise MeshError(f"{shown(str(path), 1000)}: {err}", err.reason) from err
    except OSError as err:
        text = f"{shown(str(path), 1000)}: cannot be read: {err.strerror or type(err).__name__}"
        raise MeshError(text, "unreadable") from err
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RecursionError,
        struct.error,
    ) as err:
        # What the readers did not foresee of a damaged file is still the file's fault.
        text = f"unreadable as {path.suffix.lower()}: {type(err).__name__}: {shown(str(err), 120)}"
        raise MeshError(f"{shown(str(path), 1000)}: {text}", "unreadable") from err


def _read(path: Path, limits: ReadLimits) -> Raw:
    return _parse(*open_asset(path, limits), limits)


def open_asset(path: Path, limits: ReadLimits) -> tuple[bytes, str, Beside]:
    """The content of a mesh file, its suffix, and the files beside it; looks into a .zip."""
    if not path.is_file():
        raise reject("missing", "no such mesh file")
    if path.suffix.lower() not in MESH_SUFFIXES:
        known = " ".join(MESH_SUFFIXES)
        raise reject("format", f"not a mesh format that can be read (known: {known})")
    size = path.stat().st_size
    if size == 0:
        raise reject("empty_file", "the file is empty")
    check_bytes(size, limits)
    content = path.read_bytes()
    if path.suffix.lower() == ".zip":
        archive = Archive(content, PLAIN_SUFFIXES, limits)
        return archive.read_mesh(), PurePosixPath(archive.mesh).suffix, archive
    return content, path.suffix, Folder(path.parent, limits, size)


def _parse(content: bytes, suffix: str, beside: Beside, limits: ReadLimits) -> Raw:
    if not content:
        raise reject("empty_file", "the file is empty")
    with np.errstate(over="ignore", invalid="ignore"):
        match suffix.lower():
            case ".obj":
                return read_obj(content, beside, limits)
            case ".ply":
                return read_ply(content, limits)
            case ".stl":
                return read_stl(content, limits)
            case ".off":
                return read_off(content, limits)
            case _:
                return read_gltf(content, beside, limits)


def _finished(raw: Raw) -> LoadedMesh:
    """Checked, merged, and without its surroundings."""
    vertices, faces = raw.vertices, raw.faces
    if len(faces) == 0:
        raise reject("no_faces", "holds no faces (points or lines only?)")
    # Vertices that no face uses may be anywhere, and must not decide what counts as rounding.
    used, faces = np.unique(faces, return_inverse=True)
    mesh = Mesh(vertices[used], faces.reshape(-1, 3))
    if not np.isfinite(mesh.vertices).all():
        raise reject("non_finite", "has vertices that are not finite numbers")
    low, high = mesh.bounds
    with np.errstate(over="ignore"):
        extent = float((high - low).max())
    if not np.isfinite(extent):
        raise reject("non_finite", "vertices too far apart to measure")
    if extent <= 1e-30:
        raise reject("no_extent", "has no extent, all vertices are in one place")
    mesh = merge_by_position(mesh)
    if len(mesh.faces) == 0:
        raise reject("no_faces", "every face is degenerate")
    mesh, dropped = drop_surroundings(mesh, raw.up)
    return LoadedMesh(mesh, tuple(sorted(raw.flags | dropped)))


def save_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh in the format of the suffix (.glb .obj .ply .stl .off), whole or not at all."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITABLE:
        known = " ".join(_WRITABLE)
        raise MeshError(f"{path}: cannot write this mesh format (known: {known})", "format")
    content = _encode(mesh, suffix)
    write_atomically(path, content, "the mesh")


def _encode(mesh: Mesh, suffix: str) -> bytes:
    import trimesh

    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    if len(mesh.faces) == 0:
        raise MeshError("a mesh without faces cannot be written", "no_faces")
    content = body.export(file_type=suffix[1:])
    return content.encode() if isinstance(content, str) else bytes(content)
